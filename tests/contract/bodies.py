"""A body for each endpoint that generates, with something in every section that a client can write."""

from collections.abc import Iterator
from typing import Any

SCHEMA = {"type": "object", "properties": {"a": {"default": None, "enum": [None, "x"]}}}
PARTS = [{"type": "text", "text": "what"}, {"type": "text", "text": "is it"}]
CALL = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}
REFINE = {"rounds": 1, "timeout_ms": 60_000, "max_total_tokens": 10_000, "on_error": "fail", "temperature": 0.5}
SAMPLING: dict[str, Any] = {"temperature": 0.5, "stop": ["END"], "seed": 5, "top_k": 5, "logit_bias": {"5": 1.0}}
FORMAT = {"name": "a", "schema": SCHEMA, "strict": True, "description": "d"}

BODIES: dict[str, dict[str, Any]] = {
    "/v1/refine": {
        "model": "fake",
        "messages": [{"role": "user", "content": PARTS}],
        "draft": "a draft",
        "return_rounds": True,
        "stop_when_unchanged": False,
        "stop_when": ["unchanged"],
        "select": "last",
        "instruction": "Be kind.",
        **REFINE,
    },
    "/v1/chat/completions": {
        "model": "fake",
        "messages": [
            {"role": "developer", "content": "Be brief.", "name": "d"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}], "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c", "content": "r"},
            {"role": "user", "content": PARTS, "name": "u"},
        ],
        "n": 1,
        "logprobs": True,
        "top_logprobs": 1,
        "max_tokens": 100,
        "stream_options": {"include_usage": True, "include_obfuscation": False},
        "response_format": {"type": "json_schema", "json_schema": FORMAT},
        "refine": {**REFINE, "draft": "a draft"},
        "reasoning": {"effort": "none"},
        "tools": [{"type": "function", "function": {"name": "f", "strict": None, "parameters": SCHEMA}}],
        "tool_choice": "none",
        **SAMPLING,
    },
    "/v1/completions": {
        "model": "fake",
        "prompt": ["what is it"],
        "max_tokens": 100,
        "logprobs": 1,
        "stream_options": {"include_usage": True},
        "refine": {**REFINE, "draft": "a draft"},
        **SAMPLING,
    },
    "/v1/responses": {
        "model": "fake",
        "instructions": "Be brief.",
        "input": [
            {"type": "message", "role": "user", "content": "hello"},
            {"type": "reasoning", "id": "rs", "summary": []},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "r"}]},
            {"role": "user", "content": [{"type": "input_text", "text": "what is it"}]},
        ],
        "max_output_tokens": 100,
        "temperature": 0.5,
        "text": {"format": {"type": "json_schema", **FORMAT}, "verbosity": "medium"},
        "reasoning": {"effort": "none"},
        "stream_options": {"include_obfuscation": False},
        "refine": {**REFINE, "draft": "a draft"},
    },
    "/v1/messages": {
        "model": "fake",
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": "hello"},
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "hm", "signature": "s"},
                    {"type": "text", "text": "Let me see."},
                    {"type": "tool_use", "id": "t", "name": "f", "input": {"a": "x"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "t", "content": PARTS, "is_error": False},
                    {"type": "text", "text": "what is it"},
                ],
            },
        ],
        "max_tokens": 100,
        "temperature": 0.5,
        "top_k": 5,
        "stop_sequences": ["END"],
        "tools": [{"name": "f", "description": "d", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "none"},
        "thinking": {"type": "disabled"},
        "output_config": {"format": {"type": "json_schema", "schema": SCHEMA}},
        "metadata": {"user_id": "u"},
        "refine": {**REFINE, "draft": "a draft"},
    },
}

Path = tuple[str | int, ...]
_OTHERS = ("schema", "parameters", "metadata", "tools", "input")
"""What lies under these is for others to read: a schema's null is a null."""


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    """The places of all values, the body's own first."""
    yield path
    if path and path[-1] in _OTHERS:
        return
    steps: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, inner in steps:
        yield from paths(inner, (*path, step))


def param_of(error: dict[str, Any]) -> str | None:
    """The place that an error names, in OpenAI's shape or in Anthropic's."""
    param: str | None = error.get("param") or error.get("details", {}).get("param")
    return param


def at(body: Any, path: Path) -> Any:
    for step in path:
        body = body[step]
    return body
