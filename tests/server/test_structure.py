"""`response_format`: what is admitted, what is refused, and that nothing invalid is returned by a Follower."""

import json
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from slhf_server.errors import BadRequest
from slhf_server.fake import FakeEngine, Reply
from slhf_server.model import Turn
from slhf_server.structure import Structure, structure_of
from tests.conftest import Serve
from tests.server.test_refinement import outcome

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
    found = structure_of(response_format)
    assert found is not None
    return found


def test_plain_text_is_no_structure() -> None:
    assert structure_of({"type": "text"}) is None


@pytest.mark.parametrize(
    ("text", "admitted"), [("{}", True), (' {"a": [1]}\n', True), ("[]", False), ("{", False), ('{"a": NaN}', False)]
)
def test_json_object_admits_objects_alone(text: str, admitted: bool) -> None:
    assert structure({"type": "json_object"}).admits(text) is admitted


def test_a_schema_admits_what_it_says() -> None:
    person = structure(of_schema(PERSON))
    assert person.admits('{"age": 3}')
    assert not person.admits('{"age": "three"}')
    assert not person.admits("{}")


def test_a_text_nested_beyond_reason_is_not_admitted() -> None:
    assert not structure({"type": "json_object"}).admits('{"a":' * 100_000 + "1" + "}" * 100_000)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "http://127.0.0.1:9/schema.json"},
        {"properties": {"a": {"$ref": "file:///etc/passwd"}}},
        {"$ref": "#/$defs/nowhere"},
        {"$ref": "#/properties/a/0", "properties": {"a": True}},
        {"$ref": "#/allOf/x", "allOf": [{}]},
        {"$dynamicRef": "http://127.0.0.1:9/schema.json"},
        {"type": "objekt"},
        {"properties": 3},
    ],
)
def test_a_schema_that_cannot_be_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(BadRequest, match="response_format"):
        structure_of(of_schema(schema))


@pytest.mark.parametrize(
    ("schema", "text"),
    [
        ({"properties": {"a": {"$id": "http://127.0.0.1:9/", "$ref": "#/properties/b"}, "b": {}}}, '{"a": 1}'),
        ({"multipleOf": 0.1}, "1e400"),
    ],
)
def test_a_text_that_cannot_be_checked_is_not_admitted(schema: dict[str, Any], text: str) -> None:
    assert not structure(of_schema(schema)).admits(text)


def test_a_small_schema_cannot_keep_the_server_busy_for_ever() -> None:
    """Each definition doubles the next: 2^40 checks, were they all made."""
    doubled = {f"d{i}": {"allOf": [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    schema = {"$ref": "#/$defs/d0", "$defs": doubled | {"d40": {"type": "object"}}}
    assert not structure(of_schema(schema)).admits("{}")


def test_a_recursive_schema_admits_a_long_text() -> None:
    schema = {"properties": {"items": {"type": "array", "items": {"$ref": "#"}}}}
    assert structure(of_schema(schema)).admits(json.dumps({"items": [{}] * 2000}))


def test_a_schema_that_never_ends_admits_nothing() -> None:
    assert not structure(of_schema({"$ref": "#"})).admits("{}")


def test_a_round_that_does_not_validate_is_discarded_and_the_latest_valid_text_returned() -> None:
    engine = FakeEngine(answers('{"age": 1}', '{"age": 2}', '{"age": "x"}'))
    result = outcome(engine, rounds=3, structure=structure(of_schema(PERSON)))
    assert (result.text, result.refinement.stop_reason, result.refinement.returned_round) == (
        '{"age": 2}',
        "invalid_structure",
        1,
    )
    assert len(result.refinement.usage.rounds) == 2  # the discarded round has its price
    assert result.usage == result.refinement.usage.total()


def test_a_draft_that_does_not_validate_can_be_refined_to_one_that_does() -> None:
    result = outcome(FakeEngine(answers('{"age": "x"}', '{"age": 2}')), structure=structure(of_schema(PERSON)))
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
