"""Structured output: OpenAI's `response_format` and what it admits. Nothing that a schema names is fetched."""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from slhf.json_text import read_json
from slhf_server.errors import BadRequest, QueueFull
from slhf_server.models.structured_output.workers import TookTooLong, TooManyWait, Workers

_MOST_BYTES = 512 << 10  # of a schema as JSON; docs/api.md states these limits
_MOST_VALUES = 32_768  # objects, arrays, strings and numbers alike
_MOST_DEPTH = 64  # vLLM's limit, too
_SHORT = 64 << 10  # characters of JSON that are read in a millisecond or two


@dataclass(slots=True, eq=False)
class StructuredOutput:
    """What every text of a refinement must be: a JSON object, or JSON that a schema admits."""

    response_format: Mapping[str, Any]
    """The client's own, which an upstream gets."""
    schema: Mapping[str, Any] | None = None
    """None: any JSON object."""
    workers: Workers = field(default_factory=Workers)
    """The processes that read the schema. Without a schema they have nothing to do."""
    text: str = ""
    """The schema as JSON. `check` spells its patterns out, so that the engine reads them as ECMA 262 does."""
    param: str = "response_format"
    """The parameter that asks for it, which errors name."""

    async def check(self, *, grammar: bool) -> None:
        """Raises BadRequest for a schema that is not valid or takes too long, and QueueFull.

        `grammar` says that the engine will write the text, so its grammars must know all of the schema.
        """
        if self.schema is None:
            return
        try:
            answer = await self.workers.ask(self.text.encode(), grammar=grammar)
        except TookTooLong as exc:
            raise _bad("the schema takes too long to check, or too much memory", self.param) from exc
        except TooManyWait as exc:
            raise QueueFull("too many schemas are being checked that take long") from exc
        if "refused" in answer:
            raise _bad(answer["refused"], self.param)
        self.text = answer["schema"]

    async def admits(self, text: str) -> bool:
        """Whether the text is whole and valid. A text that takes too long to check is not."""
        if not text:
            return False
        if self.schema is None:
            return _is_object(text) if len(text) <= _SHORT else await asyncio.to_thread(_is_object, text)
        try:
            return bool(await self.workers.ask(self.text.encode(), text.encode()))
        except (TookTooLong, TooManyWait):
            return False


def structured_output_of(
    response_format: Mapping[str, Any], workers: Workers, param: str = "response_format"
) -> StructuredOutput | None:
    """The structure that a `response_format` asks for; None for plain text. The caller has to call its `check`.

    Raises BadRequest naming what is wrong, and `param`.
    """
    match dict(response_format):
        case {"type": "text"}:
            return None
        case {"type": "json_object"}:
            return StructuredOutput(response_format, workers=workers)
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            check_size(schema, param)
            text = json.dumps(schema, ensure_ascii=False)
            if len(text.encode()) > _MOST_BYTES:
                raise _too_large(f"{_MOST_BYTES} bytes of JSON", param)
            return StructuredOutput(response_format, schema, workers, text, param)
        case {"type": "json_schema"}:
            raise _bad("json_schema.schema must be a JSON schema (an object)")
        case {"type": other}:
            raise _bad(f"type {str(other)[:40]!r} is unknown: use text, json_object or json_schema")
    raise _bad("needs a type: text, json_object or json_schema")


def check_size(schema: dict[str, Any], param: str) -> None:
    """Raises BadRequest for a schema that is too large, and stops at the limit: later steps take time by its size."""
    values, characters, level = 1, 0, [schema]
    for _ in range(_MOST_DEPTH):
        inner: list[Any] = []
        for node in level:
            if isinstance(node, dict):
                characters += sum(map(len, node))
                inner += node.values()
            elif isinstance(node, list):
                inner += node
            elif isinstance(node, str):
                characters += len(node)
            elif isinstance(node, int):
                characters += node.bit_length() // 4  # about its digits
            if values + len(inner) > _MOST_VALUES:
                raise _too_large(f"{_MOST_VALUES} values", param)
            if characters > _MOST_BYTES:
                raise _too_large(f"{_MOST_BYTES} bytes of JSON", param)
        if not inner:
            return
        values, level = values + len(inner), inner
    raise _too_large(f"{_MOST_DEPTH} levels of nesting", param)


def _is_object(text: str) -> bool:
    try:
        return isinstance(read_json(text), dict)
    except ValueError:
        return False


def _too_large(limit: str, param: str) -> BadRequest:
    return _bad(f"the schema is too large: at most {limit}", param)


def _bad(message: str, param: str = "response_format") -> BadRequest:
    return BadRequest(f"{param}: {message}", param=param)
