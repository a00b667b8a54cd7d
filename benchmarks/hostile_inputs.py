"""What a client may send to make a server stand still: the one list that tests and benchmarks send.

Each input is small enough for the default limits of heads and bodies, and is answered by a 200 or by a 4xx. The engine
may be the fake one; `echo` is the answer that brings a draft back as a Follower's text, so that it is validated.
"""

import functools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from slhf_server.models.base import Turn

BODY_BYTES = 4 << 20  # the default limit
ASK = [{"role": "user", "content": "a"}]


@dataclass(frozen=True)
class Hostile:
    """One request. `make` gives its body; None: a GET."""

    name: str
    path: str = "/v1/chat/completions"
    make: Callable[[], bytes] | None = None

    @functools.cached_property
    def body(self) -> bytes | None:
        return None if self.make is None else self.make()


def echo(turns: Sequence[Turn]) -> str:
    """A Follower that returns its draft, and a Leader that says little."""
    return turns[-2].text if len(turns) >= 3 else "{}"


def chat(**body: Any) -> bytes:
    return json.dumps({"messages": ASK} | body, ensure_ascii=False).encode()


def tools(count: int, parameters: dict[str, Any] | None = None) -> list[dict[str, Any]]:
    """Functions of different names."""
    told = {} if parameters is None else {"parameters": parameters}
    return [{"type": "function", "function": {"name": f"f{number}", **told}} for number in range(count)]


def raw(before: str, repeated: str, after: str, size: int = BODY_BYTES) -> bytes:
    """As many repetitions as fit."""
    return (before + repeated * ((size - len(before + after)) // len(repeated.encode())) + after).encode()


def said(repeated: str) -> bytes:
    """A prompt as long as a body may be, as JSON spells it."""
    return raw('{"messages":[{"role":"user","content":"', repeated, '"}]}')


def under(schema: Any, text: Any = "{}", **body: Any) -> bytes:
    """A schema, and the text that the Follower will write."""
    draft = text if isinstance(text, str) else json.dumps(text)
    asked = {"type": "json_schema", "json_schema": {"name": "a", "schema": schema}}
    return chat(response_format=asked, refine={"draft": draft, "rounds": 1}, **body)


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {}
    for _ in range(depth):
        schema = {"properties": {"a": schema}}
    return schema


def doubling(keyword: str) -> dict[str, Any]:
    """Each definition doubles the next: 2^40 checks."""
    steps: dict[str, Any] = {f"d{i}": {keyword: [{"$ref": f"#/$defs/d{i + 1}"}] * 2} for i in range(40)}
    return {"type": "object", "$ref": "#/$defs/d0", "$defs": steps | {"d40": {"type": "object"}}}


def _numbers(count: int, text: str) -> bytes:
    return raw('{"messages":[],"metadata":[', f"{text},", "0]}", min(BODY_BYTES, count * (len(text) + 1)))


_BODIES: dict[str, Callable[[], bytes]] = {
    "4 MiB of [": lambda: b"[" * BODY_BYTES,
    '4 MiB of {"a":': lambda: raw("", '{"a":', ""),
    "arrays, 3,000 deep": lambda: raw('{"metadata":', "[", "", 3_000) + b"]" * 2_988 + b"}",
    "2,000,000 zeros": lambda: _numbers(1 << 30, "0"),
    "1,400,000 empty objects": lambda: _numbers(1 << 30, "{}"),
    "20,000 zeros": lambda: _numbers(20_000, "0"),
    "8,000 numbers of 500 digits": lambda: _numbers(8_000, "9" * 500),
    "20,000 hard fractions": lambda: _numbers(20_000, "1.2345678901234567e-300"),
    "integers of 4,299 digits": lambda: _numbers(1 << 30, "9" * 4_299),
    "one number of 4 MiB": lambda: raw('{"messages":[],"seed":', "9", "}"),
    "300,000 keys": lambda: b'{"metadata":{' + b",".join(b'"k%d":1' % i for i in range(300_000)) + b"}}",
    "8,000 keys": lambda: chat(metadata={f"k{i}": 1 for i in range(8_000)}),
    "8,000 unknown keys": lambda: chat(**{f"k{i}": 1 for i in range(8_000)}),
    "an unknown key of 1 MiB": lambda: chat(**{"k" * (1 << 20): 1}),
    "4 MiB of line breaks": lambda: said("\\n"),
    "4 MiB of surrogate pairs": lambda: said("\\ud83d\\ude00"),
    "4 MiB of half pairs": lambda: said("\\ud83d"),
    "4 MiB of escaped quotes": lambda: said('\\"'),
    "4 MiB of quotes": lambda: raw("[", '"",', '""]'),
    "4 MiB of blanks": lambda: raw("", " ", "{}"),
    "4 MiB of no UTF-8": lambda: b'{"a":"' + b"\xff" * (BODY_BYTES - 6),
}
_CONVERSATIONS: dict[str, Callable[[], bytes]] = {
    "a prompt of 2 million words": lambda: said("a "),
    "a prompt of one word of 4 MiB": lambda: said("a"),
    "a prompt of 4 MiB of blanks": lambda: said(" "),
    "a prompt of 4 MiB of é": lambda: said("é"),
    "130,000 messages": lambda: chat(messages=ASK * 130_000)[:BODY_BYTES],
    "2,000 messages": lambda: chat(messages=[*ASK, {"role": "assistant", "content": "b"}] * 1_000 + ASK),
    "4,000 messages without a role": lambda: chat(messages=[{"content": "a"}] * 2_000),
    "1,000 messages of parts": lambda: chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": "a"}]}] * 1_000
    ),
    "a message of 2,600 parts": lambda: chat(
        messages=[{"role": "user", "content": [{"type": "text", "text": "a"}] * 2_600}]
    ),
    "1,000 calls of tools": lambda: chat(
        messages=[
            *ASK,
            {
                "role": "assistant",
                "tool_calls": [{"id": str(i), "function": {"name": "f", "arguments": "{}"}} for i in range(1_000)],
            },
            *({"role": "tool", "tool_call_id": str(i), "content": "b"} for i in range(600)),
        ]
    ),
    "a draft of 200,000 thoughts": lambda: chat(refine={"draft": "<think></think>" * 200_000}),
    "a history of thoughts": lambda: chat(
        messages=[*ASK, {"role": "assistant", "content": "<think></think>" * 200_000}, *ASK]
    ),
    "thoughts that never end": lambda: chat(refine={"draft": "<think>" * 500_000}),
    "a draft of 4 MiB": lambda: raw(chat().decode()[:-1] + ',"refine":{"rounds":0,"draft":"', "é", '"}}'),
    "a draft of 2 MiB, returned twice": lambda: chat(
        refine={"draft": "é" * (1 << 20), "rounds": 0, "return_rounds": True}
    ),
    "a draft of 2 MiB, streamed": lambda: chat(refine={"draft": "é" * (1 << 20), "rounds": 0}, stream=True),
    "a draft of 3,000 words": lambda: chat(refine={"draft": " ".join(map(str, range(3_000)))}),
    "16 stops of 200 kB": lambda: chat(stop=["a" * 200_000] * 16),
    "8,000 biases": lambda: chat(logit_bias={str(i): 1 for i in range(8_000)}),
    "8,000 wrong biases": lambda: chat(logit_bias={str(i): "a" for i in range(8_000)}),
    "8,000 wrong tokens": lambda: chat(allowed_token_ids=[-1] * 8_000),
    "8,000 bad words": lambda: chat(bad_words=["a" * 100] * 8_000),
    "4,700 tools": lambda: chat(tools=tools(4_700)),
    "4,700 tools, one of which must be called": lambda: chat(tools=tools(4_700), tool_choice="required"),
    "500 tools, one of which must be called": lambda: chat(tools=tools(500), tool_choice="required"),
    "19,000 values of tools, one of which must be called": lambda: chat(
        tools=tools(6, {"properties": {f"p{number}": {} for number in range(3_100)}}), tool_choice="required"
    ),
    "19,000 values of tools": lambda: chat(tools=[{"type": "function", "function": {"name": "f"}}] * 4_700),
    "a model's name of 1 MiB": lambda: chat(model="m" * (1 << 20)),
}
_OBJECT = {"type": "object"}
_SCHEMAS: dict[str, Callable[[], bytes]] = {
    "a pattern that backtracks": lambda: under({"type": "string", "pattern": "^(a|a)*$"}, ["a" * 40 + "b"]),
    "a property's pattern that backtracks": lambda: under(
        _OBJECT | {"patternProperties": {"^(a|a)*$": {"type": "integer"}}}, {"a" * 40 + "b": 1}
    ),
    "((a+)+b|a{40})": lambda: under({"pattern": "^((a+)+b|a{40})$"}, json.dumps("a" * 39)),
    "look-ahead": lambda: under({"pattern": "^(?=a)b"}),
    "a repeated repetition": lambda: under({"type": "string", "pattern": "((a{1,100}){1,100}){1,100}"}),
    "an exponential automaton": lambda: under({"type": "string", "pattern": "^[ab]*a[ab]{30}$"}, '"' + "ab" * 40 + '"'),
    "a pattern of 400 kB": lambda: under({"type": "string", "pattern": "(a|b)" * 80_000}),
    "a pattern of 400,000 dots": lambda: under({"type": "string", "pattern": "." * 400_000}),
    "10,000 dots and breaks": lambda: under({"type": "string", "pattern": "." * 10_000, "description": "\n" * 200_000}),
    "a pattern of groups": lambda: under({"type": "string", "pattern": "(" * 50_000 + ")" * 50_000}),
    "8,000 patterns": lambda: under(_OBJECT | {"patternProperties": {f"^a{i}b+$": {} for i in range(8_000)}}),
    "500 patterns": lambda: under(_OBJECT | {"patternProperties": {f"^a{i}b+$": {} for i in range(500)}}),
    "10,000 properties": lambda: under(_OBJECT | {"properties": {f"p{i}": {} for i in range(10_000)}}),
    "1,500 required properties": lambda: under(
        _OBJECT
        | {
            "properties": {f"p{i}": {"type": "string"} for i in range(1_500)},
            "required": [f"p{i}" for i in range(1_500)],
        }
    ),
    "2,000 alternatives": lambda: under({"anyOf": [{"const": i} for i in range(2_000)]}, "-1"),
    "2,000 alternatives of everything": lambda: under({"anyOf": [{}] * 2_000}),
    "19,000 values to choose from": lambda: under({"enum": [f"value {i}" for i in range(19_000)]}, '"value"'),
    "2^40 of allOf": lambda: under(doubling("allOf")),
    "2^40 of anyOf": lambda: under(doubling("anyOf")),
    "2^40 of oneOf": lambda: under(doubling("oneOf")),
    "a schema that is itself": lambda: under({"$ref": "#"}),
    "a schema in a circle": lambda: under({"$ref": "#/$defs/a", "$defs": {"a": {"not": {"$ref": "#/$defs/a"}}}}),
    "a schema, 60 deep": lambda: under(nested(30)),
    "a schema, 300 deep": lambda: under(nested(150)),
    "a schema of 3 MiB": lambda: under({"description": "é" * (3 << 19)}),
    "an array of 100,000 items": lambda: under({"type": "array", "items": {}, "minItems": 100_000}),
    "3,000 items, 2,000 alternatives each": lambda: under(
        {"type": "array", "items": {"anyOf": [{"const": i} for i in range(2_000)]}}, [1_999] * 3_000
    ),
    "a text, 3,000 deep": lambda: under(_OBJECT, '{"a":' * 3_000 + "1" + "}" * 3_000),
    "a recursive schema on a deep text": lambda: under({"items": {"$ref": "#"}}, "[" * 900 + "]" * 900),
    "numbers beyond 64 bits": lambda: under({"minimum": 2**64, "enum": [10**23], "x-other": 10**300}, str(10**23)),
    "unevaluatedProperties": lambda: under(
        _OBJECT | {"unevaluatedProperties": False, "anyOf": [{"properties": {f"p{i}": True}} for i in range(2_000)]},
        {f"q{i}": 1 for i in range(3_000)},
    ),
    "a json_object of 200 kB": lambda: chat(
        response_format={"type": "json_object"}, refine={"draft": json.dumps({"a": [0] * 60_000})}
    ),
}
_OTHERS = [
    Hostile("a model's name of 30 kB", f"/v1/models/{'m' * 30_000}"),
    Hostile("a path of 30 kB", f"/{'p' * 30_000}"),
    Hostile("a draft to refine of 4 MiB", "/v1/refine", lambda: raw('{"prompt":"a","rounds":0,"draft":"', "a ", '"}')),
    Hostile("a draft of a million words", "/v1/refine", lambda: raw('{"prompt":"a","draft":"', "a b ", '"}')),
    Hostile("a prompt to complete of 4 MiB", "/v1/completions", lambda: raw('{"prompt":"', "a ", '"}')),
    Hostile(
        "2,000 items of a response",
        "/v1/responses",
        lambda: json.dumps({"input": [{"role": "user", "content": "a"}] * 2_000}).encode(),
    ),
    Hostile("instructions of 4 MiB", "/v1/responses", lambda: raw('{"input":"a","instructions":"', "a ", '"}')),
    Hostile(
        "9,000 tools in a message, one of which must be called",
        "/v1/messages",
        lambda: chat(
            max_tokens=9, tools=[{"name": f"f{number}"} for number in range(9_000)], tool_choice={"type": "any"}
        ),
    ),
    Hostile(
        "9,000 tools to count",
        "/v1/messages/count_tokens",
        lambda: chat(tools=[{"name": f"f{n}"} for n in range(9_000)]),
    ),
]
INPUTS: list[Hostile] = [
    *(Hostile(name, make=make) for group in (_BODIES, _CONVERSATIONS, _SCHEMAS) for name, make in group.items()),
    *_OTHERS,
]
