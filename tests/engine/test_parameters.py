"""Sampling parameters and structured output in the real engine, which nothing of them may kill."""

import json
from collections.abc import Mapping
from typing import Any

import jsonschema
import pytest

from slhf_server.errors import BadRequest
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.models.structured_output.workers import Workers
from tests.engine.conftest import ExactEngine

pytestmark = [pytest.mark.engine, pytest.mark.timeout(900)]
PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 120}},
    "required": ["name", "age"],
    "additionalProperties": False,
}
DRAFT = '{"name":"Bob","age":30}'
REFINING = [
    Turn("user", "Describe Bob, who is 30, as JSON."),
    Turn("assistant", DRAFT),
    Turn("user", "Repeat the previous answer exactly."),
]
COUNT = [Turn("user", "Count from one to ten in words, separated by commas.")]


def schema(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "test", "schema": content}}


def under(content: Mapping[str, Any]) -> dict[str, Any]:
    return {"structure": structured_output_of(schema(content), Workers())}


@pytest.mark.parametrize("deltas", [False, True])
def test_structured_text_is_whole_and_valid_where_no_limit_cuts_it(exact: ExactEngine, deltas: bool) -> None:
    """Guessed from the draft too: a guess that the grammar does not admit is never proposed."""
    formats = [schema(PERSON)] * 4 + [{"type": "json_object"}] * 4
    structures = [structured_output_of(asked, Workers()) for asked in formats]
    asks = [
        (REFINING, SamplingParams(temperature=0.9 if i % 2 else 0, max_tokens=60, structure=structure))
        for i, structure in enumerate(structures)
    ]
    streams = exact.streams(asks, deltas=deltas)
    assert sum(chunks[-1].accepted_tokens for chunks in streams) > 0
    whole = [i for i, chunks in enumerate(streams) if chunks[-1].finish_reason == "stop"]
    assert set(whole) >= {0, 1, 2, 3}  # no schema's longest text has 60 tokens
    for i in whole:
        text = "".join(chunk.text for chunk in streams[i])
        jsonschema.validate(json.loads(text), formats[i].get("json_schema", {"schema": {"type": "object"}})["schema"])
        assert text == json.dumps(json.loads(text), separators=(",", ":"), ensure_ascii=False)  # compact


REFUSED: dict[str, dict[str, Any]] = {
    "self-reference": under({"$ref": "#"}),
    "reference in a circle": under({"$defs": {"a": {"$ref": "#/$defs/a"}}, "$ref": "#/$defs/a"}),
    "look-around": under({"type": "string", "pattern": "^(?=a)b(?!c)$"}),
    "back-reference": under({"type": "string", "pattern": "^(a)\\1$"}),
    "unknown keyword to the grammar": under({"type": "array", "uniqueItems": True}),
    "nothing fits": under({"type": "integer", "minimum": 5, "maximum": -5}),
    "too large a grammar": under({"type": "array", "items": {"type": "null"}, "minItems": 100_000}),
    "too many properties": under(  # the last is required, or the token "{}" alone would do
        {"type": "object", "properties": {f"p{i}": {} for i in range(3000)}, "required": ["p2999"]}
    ),
    "structure without end": under(PERSON) | {"ignore_eos": True},
    "structure of forbidden tokens": under(PERSON) | {"allowed_token_ids": (260,)},
    "logprobs": {"logprobs": 100},
    "all logprobs": {"logprobs": -1},
    "bias beyond the vocabulary": {"logit_bias": {"1000000000": 1.0}},
    "bias before the vocabulary": {"logit_bias": {"-1": 1.0}},
    "bias of no token": {"logit_bias": {"the": 1.0}},
    "bias beyond reason": {"logit_bias": {"260": 1e308}},
    "bias that is no number": {"logit_bias": {"260": float("nan")}},
    "nothing allowed": {"allowed_token_ids": ()},
    "allowed beyond the vocabulary": {"allowed_token_ids": (10**9,)},
    "empty bad word": {"bad_words": ("",)},
    "blank bad word": {"bad_words": (" ",)},
    "bad word that is no text": {"bad_words": ("\ud800",)},
    "too many bad words": {"bad_words": tuple(f"word{i}" for i in range(200))},
    "stop token beyond the vocabulary": {"stop_token_ids": (2**70,)},
    "stop that is no text": {"stop": ("\ud800",)},
    "min_p": {"min_p": 2.0},
}
BORNE: dict[str, dict[str, Any]] = {
    "pattern properties": under({"type": "object", "patternProperties": {"^a+$": {"type": "string"}}}),
    "huge enum": under({"enum": [f"value number {i}" for i in range(20_000)]}),
    "nested quantifiers": under({"type": "string", "pattern": "^((a{1,100}){1,100}){1,100}$"}),
    "backtracking": under({"type": "string", "pattern": "^(.*a){25}$"}),
    "exponential automaton": under({"type": "string", "pattern": "^[ab]*a[ab]{30}$"}),
    "long string": under({"type": "string", "minLength": 1_000_000}),
    "structure and every parameter": under(PERSON)
    | {"min_p": 0.1, "logit_bias": {"260": 100}, "bad_words": ("{",), "min_tokens": 4, "logprobs": 20, "stop": ("e",)},
    "only a forbidden word": {"allowed_token_ids": (260,), "bad_words": ("the", " the"), "min_p": 0.1, "logprobs": 3},
    "every token biased": {"logit_bias": {str(i): -100.0 for i in range(49152)}},
    "every token stops": {"stop_token_ids": tuple(range(49152)), "min_tokens": 4},
    "extremes": {"top_k": 2**31 - 1, "top_p": 1e-300, "repetition_penalty": 1e-300, "seed": 2**63 - 1},
}


def answers(exact: ExactEngine) -> bool:
    return exact.complete(COUNT, SamplingParams(temperature=0, max_tokens=1)).completion_tokens == 1


@pytest.mark.parametrize("wish", REFUSED.values(), ids=REFUSED)
def test_what_the_engine_cannot_do_is_the_clients_error(exact: ExactEngine, wish: dict[str, Any]) -> None:
    for temperature in (0, 0.9):
        with pytest.raises(BadRequest):
            exact.complete(COUNT, SamplingParams(**{"temperature": temperature, "max_tokens": 6} | wish))
    assert answers(exact)


@pytest.mark.parametrize("wish", BORNE.values(), ids=BORNE)
def test_awkward_parameters_end_with_an_answer(exact: ExactEngine, wish: dict[str, Any]) -> None:
    asks = [(COUNT, SamplingParams(**{"temperature": temperature, "max_tokens": 6} | wish)) for temperature in (0, 0.9)]
    assert all(chunk.finish_reason in ("stop", "length") for chunk in exact.completions(asks))
    assert answers(exact)


def test_an_error_names_its_parameter(exact: ExactEngine) -> None:
    for name, param in (
        ("logprobs", "logprobs"),
        ("look-around", "response_format"),
        ("bias of no token", "logit_bias"),
    ):
        with pytest.raises(BadRequest) as refused:
            exact.complete(COUNT, SamplingParams(**REFUSED[name]))
        assert refused.value.param == param


def test_token_and_text_parameters_reach_the_engine(exact: ExactEngine) -> None:
    plain = exact.complete(COUNT, SamplingParams(temperature=0, max_tokens=16))
    first, second = (plain.token_ids or ())[:2]
    word = plain.text[2]  # it counts in digits: "123..."
    wishes: list[dict[str, Any]] = [
        {"bad_words": (word,)},
        {"stop": (word,)},
        {"stop": (word,), "include_stop_str_in_output": True},
        {"stop_token_ids": (second,)},
        {"allowed_token_ids": (260, 284)},
    ]
    asks = [(COUNT, SamplingParams(temperature=0, max_tokens=16, **wish)) for wish in wishes]
    without, stopped, kept, ended, allowed = exact.completions(asks)
    assert without.text != plain.text
    assert (stopped.finish_reason, kept.text) == ("stop", f"{stopped.text}{word}")
    assert (ended.token_ids, ended.completion_tokens) == ((first,), 2)
    assert set(allowed.token_ids or ()) <= {260, 284}


@pytest.mark.parametrize("deltas", [False, True])
def test_each_chunk_has_the_logprobs_of_its_own_tokens(exact: ExactEngine, deltas: bool) -> None:
    turns = [*REFINING[:1], Turn("assistant", "Köln 🎉🦄 ok"), REFINING[2]]
    asks = [(turns, SamplingParams(temperature=0, max_tokens=40, logprobs=most)) for most in (0, 2)]
    for most, chunks in zip((0, 2), exact.streams(asks, deltas=deltas), strict=True):
        assert chunks[-1].finish_reason == "stop"
        ended = [0] * (len(chunks) - 1) + [1]  # OpenAI does not list the token that ends the text
        assert [len(c.logprobs) for c in chunks] == [
            c.completion_tokens - e for c, e in zip(chunks, ended, strict=True)
        ]
        text = "".join(chunk.text for chunk in chunks)
        entries = [entry for chunk in chunks for entry in chunk.logprobs]
        assert "".join(entry.token for entry in entries) == text
        assert b"".join(bytes(entry.bytes or ()) for entry in entries) == text.encode()
        assert {len(entry.top_logprobs) for entry in entries} == {most}


@pytest.mark.parametrize("deltas", [False, True])
def test_a_text_with_a_pattern_matches_it(exact: ExactEngine, deltas: bool) -> None:
    assert "2" in exact.complete(COUNT, SamplingParams(temperature=0, max_tokens=40)).text
    wishes: list[dict[str, Any]] = [{"temperature": 0}, *({"temperature": 0.9, "seed": seed} for seed in range(3))]
    asks = [(COUNT, SamplingParams(max_tokens=40, pattern="[^2A-Z]+", **wish)) for wish in wishes]
    for chunks in exact.streams(asks, deltas=deltas):
        text = "".join(chunk.text for chunk in chunks)
        assert text
        assert not any(letter == "2" or "A" <= letter <= "Z" for letter in text)
