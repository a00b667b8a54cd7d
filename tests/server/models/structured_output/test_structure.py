"""`response_format`: what is admitted, what is refused, and that nothing invalid is returned by a Follower."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import httpx2
import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.hostile_inputs import nested
from slhf_server.errors import BadRequest, QueueFull
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Reply
from slhf_server.models.structured_output import validator
from slhf_server.models.structured_output.response_format import StructuredOutput, structured_output_of
from slhf_server.models.structured_output.workers import TooManyWait, Workers
from slhf_server.refinement.loop import refine
from slhf_server.refinement.state import RefinementResult
from tests.conftest import Serve
from tests.server.refinement.test_refinement import a_job

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


def structure(response_format: dict[str, Any]) -> StructuredOutput:
    found = structured_output_of(response_format, Workers())
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


def refined(engine: FakeEngine, **job: Any) -> RefinementResult:
    """How a refinement ends whose texts must be a PERSON."""

    async def play() -> RefinementResult:
        asked = structure(of_schema(PERSON))
        try:
            last = [step async for step in refine(a_job(engine, structure=asked, **job))][-1]
        finally:
            await asked.workers.close()
        assert isinstance(last, RefinementResult)
        return last

    return asyncio.run(play())


def test_plain_text_is_no_structure() -> None:
    assert structured_output_of({"type": "text"}, Workers()) is None


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


@pytest.mark.parametrize(
    "schema",
    [
        {"enum": [{"$ref": "http://127.0.0.1:9/"}, {"pattern": "(?=a)"}]},
        {"const": {"$ref": "http://127.0.0.1:9/"}},
        {"default": {"$ref": "#/nowhere"}, "examples": [{"$ref": "x"}], "x-ours": {"$ref": "http://127.0.0.1:9/"}},
        {"properties": {"$ref": {"type": "string"}, "pattern": {"type": "string"}}},
        {"$ref": "#a", "$defs": {"a": {"$anchor": "a"}}},
        {"$dynamicRef": "#a", "$defs": {"a": {"$dynamicAnchor": "a"}}},
        {"$id": "http://127.0.0.1:9/", "$ref": "#/$defs/a", "$defs": {"a": {}}},
        {"maximum": 2**64, "enum": [10**23], "x-ours": [10**300, {"a": 2**70}]},
        {"enum": [f"value number {i}" for i in range(20_000)]},
        {"type": "object", "patternProperties": {r"^\p{L}+$": {}, r"^(?<year>\d{4})$": {}, r"^\cA$": {}, "[]": {}}},
        {"pattern": "^(a|a)*$"},
    ],
    ids=lambda schema: json.dumps(schema)[:30],
)
def test_what_is_legal_is_accepted(schema: dict[str, Any]) -> None:
    assert len(admits(of_schema(schema), "{}")) == 1


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ({"pattern": "^(?=a)b"}, "pattern '^(?=a)b' has look-around"),
        ({"items": {"pattern": r"(a)\1"}}, r"pattern '(a)\\1' has a back-reference"),
        ({"patternProperties": {"a(?!b)": {}}}, "patternProperties 'a(?!b)' has look-around"),
        ({"$defs": {"a": {"anyOf": [{"pattern": "(?P<x>a)"}]}}}, "has Python's"),
        ({"pattern": "a{1,3}+"}, "repeats"),
        ({"pattern": "a" * 1000 + "("}, "does not close a group"),
        ({"properties": {"x" * 1000: {"type": "y" * 1000}}}, "not valid at #/properties/xxx"),
        ({"$ref": "http://127.0.0.1:9/" + "x" * 1000}, "must point into the schema itself"),
        ({"pattern": "." * 40_000}, "patterns are too long"),
        ({"description": "x" * 600_000}, "at most 524288 bytes"),
        ({"enum": [0] * 40_000}, "at most 32768 values"),
        ({"enum": [[[[]]] * 10_000] * 3}, "at most 32768 values"),
        (nested(40), "at most 64 levels"),
        ({"enum": [json.loads("[" * 500 + "]" * 500)]}, "at most 64 levels"),
        ({"type": ["string", 3]}, "not valid at #/type"),
    ],
    ids=lambda value: json.dumps(value)[:30],
)
def test_what_is_refused_is_told_why_and_not_sent_back(schema: dict[str, Any], said: str) -> None:
    with pytest.raises(BadRequest) as refused:
        admits(of_schema(schema))
    assert said in refused.value.message
    assert refused.value.param == "response_format"
    assert len(refused.value.message) < 300


def test_what_the_engine_cannot_be_held_to_is_refused_where_the_engine_writes(serve: Serve) -> None:
    """Guidance has no grammar for it: the request says so before anything runs. An upstream alone may know it."""
    url = serve(FakeEngine(answers("[1]", "[1]")))
    refused = ask(url, response_format=of_schema({"type": "array", "uniqueItems": True}))
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format")
    assert "uniqueItems" in refused.json()["error"]["message"]


def test_patterns_reach_the_engine_as_both_read_them_and_the_client_keeps_its_own(serve: Serve) -> None:
    engine = FakeEngine(answers('"1"', '"2"'))
    schema = {"type": "string", "pattern": r"^\d$", "maxLength": 5}
    assert ask(serve(engine), response_format=of_schema(schema)).json()["choices"][0]["message"]["content"] == '"2"'
    bound = engine.follower.calls[0][1].structure
    assert bound is not None
    assert bound.response_format == of_schema(schema)
    assert json.loads(bound.text) == {"type": "string", "pattern": "^[0-9]$", "maxLength": 5}


SIMPLE: st.SearchStrategy[Any] = st.none() | st.booleans() | st.integers(-3, 2**65) | st.text("ab1", max_size=3)
VALUES: st.SearchStrategy[Any] = st.recursive(
    SIMPLE | st.floats(-2, 2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from("abc"), inner, max_size=3),
    max_leaves=6,
)
NUMBERS = st.integers(-3, 3) | st.just(2**64) | st.floats(-2, 2)
COUNTS = st.integers(0, 3)
TYPES = st.sampled_from(["null", "boolean", "integer", "number", "string", "array", "object"])
SCHEMAS: st.SearchStrategy[Any] = st.recursive(
    st.booleans() | st.fixed_dictionaries({"type": TYPES}) | st.just({"$ref": "#/$defs/d"}),
    lambda inner: st.fixed_dictionaries(
        {},
        optional={
            "type": TYPES | st.lists(TYPES, min_size=1, max_size=3, unique=True),
            "enum": st.lists(VALUES, min_size=1, max_size=3),
            "const": VALUES,
            "minimum": NUMBERS,
            "exclusiveMaximum": NUMBERS,
            "minLength": COUNTS,
            "maxItems": COUNTS,
            "uniqueItems": st.booleans(),
            "pattern": st.sampled_from(["^a", "b$", "^[ab]*$", r"\d", "a|b1"]),
            "properties": st.dictionaries(st.sampled_from("abc"), inner, max_size=2),
            "patternProperties": st.dictionaries(st.sampled_from(["^a", "b|c"]), inner, max_size=2),
            "additionalProperties": inner,
            "unevaluatedProperties": inner,
            "required": st.lists(st.sampled_from("abc"), max_size=2, unique=True),
            "items": inner,
            "prefixItems": st.lists(inner, min_size=1, max_size=2),
            "contains": inner,
            "propertyNames": inner,
            "not": inner,
            "if": inner,
            "then": inner,
            "allOf": st.lists(inner, min_size=1, max_size=2),
            "anyOf": st.lists(inner, min_size=1, max_size=2),
            "oneOf": st.lists(inner, min_size=1, max_size=2),
            "dependentRequired": st.just({"a": ["b"]}),
        },
    ),
    max_leaves=5,
)


@settings(deadline=None, max_examples=300)
@given(SCHEMAS, SCHEMAS, st.lists(VALUES, min_size=1, max_size=4))
def test_what_is_admitted_is_what_the_reference_implementation_admits(schema: Any, d: Any, values: list[Any]) -> None:
    whole = {"allOf": [schema], "$defs": {"d": d if "$ref" not in json.dumps(d) else True}}
    answer = validator.verdict(json.dumps(whole).encode(), grammar=False)
    assert "schema" in answer, answer
    oracle = jsonschema.Draft202012Validator(whole)
    for value in values:
        text = json.dumps(value)
        assert validator.admits(answer["schema"].encode(), text.encode()) == oracle.is_valid(value), (whole, text)


@settings(deadline=None, max_examples=200)
@given(st.dictionaries(st.sampled_from([*"ab", "type", "properties", "$ref", "pattern", "items", "enum"]), VALUES))
def test_no_schema_makes_anything_but_a_verdict(schema: dict[str, Any]) -> None:
    for grammar in (False, True):
        answer = validator.verdict(json.dumps(schema).encode(), grammar)
        assert answer.keys() in ({"refused"}, {"schema"})


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


class Busy(Workers):
    async def ask(self, schema: bytes, text: bytes = b"", *, grammar: bool = False) -> Any:
        raise TooManyWait


def test_while_too_many_hard_schemas_wait_another_is_refused_and_a_text_is_not_admitted() -> None:
    async def scenario() -> None:
        asked = structured_output_of(of_schema(PERSON), Busy())
        assert asked is not None
        with pytest.raises(QueueFull, match="too many schemas"):
            await asked.check(grammar=False)
        assert await asked.admits('{"age": 4}') is False

    asyncio.run(scenario())
