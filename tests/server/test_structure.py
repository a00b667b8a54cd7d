"""`response_format`: what is admitted, what is refused, and that nothing invalid is returned by a Follower."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from slhf_server.chain import Outcome
from slhf_server.errors import BadRequest
from slhf_server.fake import FakeEngine, Reply
from slhf_server.model import Turn
from slhf_server.refinement import refine
from slhf_server.structure import Structure, structure_of
from slhf_server.workers import Workers
from tests.conftest import Serve
from tests.server.test_refinement import a_job

PERSON = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"]}
ASK = [{"role": "user", "content": "who"}]


def of_schema(schema: Any) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}


def answers(*texts: str) -> Reply:
    """One text after the other, whoever is asked."""
    left = list(texts)

    def reply(turns: Sequence[Turn]) -> str:
        return left.pop(0)

    return reply


def structure(response_format: dict[str, Any]) -> Structure:
    found = structure_of(response_format, Workers())
    assert found is not None
    return found


def admits(response_format: dict[str, Any], *texts: str) -> list[bool]:
    """What the structure says to each text. Raises BadRequest for one that cannot be."""

    async def ask() -> list[bool]:
        asked = structure(response_format)
        try:
            await asked.check(grammar=False)
            return [await asked.admits(text) for text in texts]
        finally:
            await asked.workers.close()

    return asyncio.run(ask())


def refined(engine: FakeEngine, **job: Any) -> Outcome:
    """How a refinement ends whose texts must be a PERSON."""

    async def play() -> Outcome:
        asked = structure(of_schema(PERSON))
        try:
            last = [step async for step in refine(a_job(engine, structure=asked, **job))][-1]
        finally:
            await asked.workers.close()
        assert isinstance(last, Outcome)
        return last

    return asyncio.run(play())


def test_plain_text_is_no_structure() -> None:
    assert structure_of({"type": "text"}, Workers()) is None


@pytest.mark.parametrize(
    ("text", "admitted"), [("{}", True), (' {"a": [1]}\n', True), ("[]", False), ("{", False), ('{"a": NaN}', False)]
)
def test_json_object_admits_objects_alone(text: str, admitted: bool) -> None:
    assert admits({"type": "json_object"}, text) == [admitted]


def test_a_schema_admits_what_it_says() -> None:
    texts = ['{"age": 3}', '{"age": "three"}', "{}", "", '{"age": 3', '{"age": NaN}']
    assert admits(of_schema(PERSON), *texts) == [True, False, False, False, False, False]


def test_a_text_nested_beyond_reason_is_not_admitted() -> None:
    deep = '{"a":' * 100_000 + "1" + "}" * 100_000
    assert admits({"type": "json_object"}, deep) == admits(of_schema({"type": "object"}), deep) == [False]


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "#/properties/a/0", "properties": {"a": True}},
        {"$ref": "#/allOf/x", "allOf": [{}]},
        {"$dynamicRef": "http://127.0.0.1:9/schema.json"},
        {"$ref": "other.json"},
        {"properties": {"a": {"$id": "http://127.0.0.1:9/", "$ref": "#/properties/b"}, "b": {}}},
        {"type": "objekt"},
        {"properties": 3},
    ],
)
def test_a_schema_that_cannot_be_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="response_format"):
        admits(of_schema(schema))


@pytest.mark.parametrize("text", ["1e400", "9" * 5000])
def test_a_text_with_a_number_that_nobody_can_read_is_not_admitted(text: str) -> None:
    assert admits(of_schema({"multipleOf": 0.1}), text) == [False]


def test_a_small_schema_cannot_keep_the_server_busy_for_ever() -> None:
    """Each definition doubles the next: 2^40 checks, were they all made."""
    doubled = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    schema = {"$ref": "#/$defs/d0", "$defs": doubled | {"d40": {"type": "object"}}}
    assert admits(of_schema(schema), "{}") == [False]


def test_a_recursive_schema_admits_a_long_text() -> None:
    schema = {"properties": {"items": {"type": "array", "items": {"$ref": "#"}}}}
    assert admits(of_schema(schema), json.dumps({"items": [{}] * 2000})) == [True]


def test_a_schema_that_says_nothing_but_itself_ends() -> None:
    assert len(admits(of_schema({"$ref": "#"}), "{}")) == 1


def test_a_round_that_does_not_validate_is_discarded_and_the_latest_valid_text_returned() -> None:
    engine = FakeEngine(answers('{"age": 1}', '{"age": 2}', '{"age": "x"}'))
    result = refined(engine, rounds=3)
    assert (result.text, result.refinement.stop_reason, result.refinement.returned_round) == (
        '{"age": 2}',
        "invalid_structure",
        1,
    )
    assert len(result.refinement.usage.rounds) == 2  # the discarded round has its price
    assert result.usage == result.refinement.usage.total()


def test_a_draft_that_does_not_validate_can_be_refined_to_one_that_does() -> None:
    result = refined(FakeEngine(answers('{"age": "x"}', '{"age": 2}')))
    assert (result.text, result.refinement.stop_reason) == ('{"age": 2}', "rounds_done")


def ask(url: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK, **body})


def test_every_player_is_bound_to_the_structure(serve: Serve) -> None:
    engine = FakeEngine(answers('{"age": 1}', '{"age": 2}'))
    answer = ask(serve(engine), response_format=of_schema(PERSON)).json()
    assert json.loads(answer["choices"][0]["message"]["content"]) == {"age": 2}
    for role in (engine.leader, engine.follower):
        bound = role.calls[0][1].structure
        assert bound is not None
        assert bound.schema == PERSON


def test_a_streamed_structured_answer_is_sent_when_it_is_known_to_be_valid(serve: Serve) -> None:
    engine = FakeEngine(answers('{"age": 1}', '{ "age" : "x" }'))
    body = {"response_format": of_schema(PERSON), "stream": True}
    text = ask(serve(engine), **body).text
    chunks = [json.loads(line.removeprefix("data: ")) for line in text.splitlines() if line.startswith("data: {")]
    pieces = [chunk["choices"][0]["delta"].get("content") for chunk in chunks]
    assert [piece for piece in pieces if piece] == ['{"age": 1}']


def test_discarded_rounds_are_counted(serve: Serve) -> None:
    url = serve(FakeEngine(answers('{"age": 1}', "no")))
    assert ask(url, response_format=of_schema(PERSON)).headers["X-SLHF-Stop-Reason"] == "invalid_structure"
    page = httpx2.get(f"{url}/metrics").text
    assert 'slhf_rounds_total{model_name="fake",outcome="discarded"} 1.0' in page
    assert 'slhf_stop_reason_total{model_name="fake",reason="invalid_structure"} 1.0' in page
