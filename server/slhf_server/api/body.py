"""A request's JSON, read strictly (slhf/json_text.py), and bounded before work is done on it.

Python parses JSON in one go that nothing else can run beside, in any thread; so what that costs must be bounded by what
can be counted cheaply. Long strings cost little, many values much. Pydantic calls our validators for each value, so in
a thread it lets the event loop have its turn.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from fastapi import Request, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException

from slhf.json_text import read_json
from slhf_server.api.error_handlers import bad_request
from slhf_server.errors import BadRequest

_MOST_VALUES = 20_480  # of one body; docs/api.md states these limits
_MOST_CHECKED = 8_192  # of these, outside of what is passed on as it came
_MOST_MESSAGES = 2_048
_PASSED_ON = ("response_format", "text", "tools", "output_config", "tokens")  # lists of thousands of values
_SMALL = 64 << 10  # bytes that are read in a millisecond or two
_QUICK = 16 << 10  # bytes that are validated in one
_SLICE = 64 << 10  # bytes, between which others have their turn


class JsonRequest(Request):
    """A request whose JSON is read strictly and, where it is large, in a thread."""

    def __init__(self, request: Request, field: Any) -> None:
        """`field` is FastAPI's, which validates the body."""
        super().__init__(request.scope, request.receive)
        self._field = field

    async def json(self) -> Any:
        """The body's value or, where it is not small, the endpoint's model of it.

        FastAPI would validate it on the event loop, and takes a model that is validated already as it is.

        Raises BadRequest for a body that is no JSON, is too large, or is not what the endpoint takes.
        """
        if not hasattr(self, "_json"):
            raw = await self.body()
            self._json = await _read(raw)
            if len(raw) > _QUICK:
                self._json = await asyncio.to_thread(self._validated, self._json)
        return self._json

    def _validated(self, body: Any) -> Any:
        value, errors = self._field.validate(body, loc=("body",))
        if errors:
            raise bad_request(errors, body)
        return value


class JsonRoute(APIRoute):
    """The `route_class` of a router whose endpoints take a JSON body."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def read(request: Request) -> Response:
            try:
                return await handle(JsonRequest(request, self.body_field))
            except HTTPException as exc:
                if isinstance(exc.__cause__, BadRequest):  # FastAPI hides why a body cannot be read
                    raise exc.__cause__ from None
                raise

        return read


async def _read(raw: bytes) -> Any:
    await _check_values(raw)
    try:
        # In a thread Python's own functions for numbers, which cost most, let the event loop have its turn.
        body = read_json(raw) if len(raw) <= _SMALL else await asyncio.to_thread(read_json, raw)
    except UnicodeError as exc:
        raise BadRequest("the body must be UTF-8, escapes of surrogates included") from exc
    except ValueError as exc:
        why = str(exc)
        if "surrogate" in why:
            raise BadRequest("the body must be UTF-8, escapes of surrogates included") from exc
        raise BadRequest(f"the body is not valid JSON: {why}") from exc
    if isinstance(body, dict) and len(raw) > _MOST_MESSAGES:  # each takes more than a byte
        _check_sizes(body)
    return body


async def _check_values(raw: bytes) -> None:
    """Count the values by the commas and brackets outside of strings, a slice at a time."""
    if len(raw) < _MOST_VALUES or _marks(raw) < _MOST_VALUES:
        return  # there are too few marks, even if all of them stand outside of strings
    values, inside, held = 1, False, b""
    for start in range(0, len(raw), _SLICE):
        part = held + raw[start : start + _SLICE]
        odd = (len(part) - len(part.rstrip(b"\\"))) % 2
        part, held = (part[:-1], b"\\") if odd else (part, b"")  # the character that it escapes is in the next slice
        pieces = part.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')
        values += _marks(b"".join(pieces[inside::2]))
        inside ^= len(pieces) % 2 == 0
        if values > _MOST_VALUES:
            raise BadRequest(f"the body has more than {_MOST_VALUES} JSON values")
        await asyncio.sleep(0)


def _marks(raw: bytes) -> int:
    """How many commas and opening brackets of non-empty collections there are: one for each value but the outermost."""
    return sum(map(raw.count, (b",", b"[", b"{"))) - raw.count(b"[]") - raw.count(b"{}")


def _check_sizes(body: dict[str, Any]) -> None:
    for name in ("messages", "input"):
        if isinstance(body.get(name), list) and len(body[name]) > _MOST_MESSAGES:
            raise BadRequest(f"{name}: more than {_MOST_MESSAGES} messages", param=name)
    left = [value for name, value in body.items() if name not in _PASSED_ON]
    text = body.get("text")
    if isinstance(text, dict):  # it is checked key by key, without its schema
        left += [[*part] for part in (text, text.get("format")) if isinstance(part, dict)]
    checked = len(body)
    while left:
        value = left.pop()
        inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
        checked += len(inner)
        if checked > _MOST_CHECKED:
            raise BadRequest(f"the body has more than {_MOST_CHECKED} JSON values outside of {', '.join(_PASSED_ON)}")
        left += inner
