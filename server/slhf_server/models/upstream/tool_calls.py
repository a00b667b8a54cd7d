"""Puts the tool calls of one answer together from their pieces, in OpenAI's format."""

import json
import secrets
from collections.abc import Mapping
from typing import Any

from slhf_server.models.upstream.characters import whole_characters


class ToolCalls:
    """The calls of one answer, which grow by `take`.

    A piece belongs to the call at its index, or at its position where it has no index. A named piece begins another
    call, though, where its id is new, or where it has no id and the call before it is complete, because Gemini's layer
    gives every call the index 0, or none.
    """

    def __init__(self) -> None:
        self._calls: list[dict[str, Any]] = []
        self._at: dict[int, dict[str, Any]] = {}

    def __bool__(self) -> bool:
        return any(map(_name, self._calls))

    def take(self, pieces: object) -> None:
        """Add `tool_calls` of a message or a delta; what is no call is ignored."""
        for position, piece in enumerate(pieces if isinstance(pieces, list) else ()):
            if isinstance(piece, dict):
                self._add(position, piece)

    def whole(self) -> tuple[Mapping[str, Any], ...]:
        """Every call that has a name, with what clients rely on: an id, a type, and arguments as text."""
        return tuple(_completed(call) for call in self._calls if _name(call))

    def _add(self, position: int, said: Mapping[str, Any]) -> None:
        index = said.get("index")
        place = index if isinstance(index, int) else position
        piece = {key: _spelled(value) for key, value in said.items() if key != "index"}
        call = self._at.get(place)
        if call is None or _is_another(call, piece):
            self._at[place] = call = {}
            self._calls.append(call)
        _merge(call, piece)


def _called(call: Mapping[str, Any]) -> Mapping[str, Any]:
    """What is called, by the call's type: a function, or a tool of the client's own kind."""
    called = call.get("function") or call.get("custom")
    return called if isinstance(called, dict) else {}


def _name(call: Mapping[str, Any]) -> str:
    name = _called(call).get("name")
    return name if isinstance(name, str) else ""


def _arguments(call: Mapping[str, Any]) -> str:
    called = _called(call)
    said = called.get("arguments") or called.get("input")
    return said if isinstance(said, str) else ""


def _is_another(call: Mapping[str, Any], piece: Mapping[str, Any]) -> bool:
    """Whether a piece begins a call of its own; some servers repeat name and id, or draw a new id each time."""
    if not _name(piece):
        return False
    so_far, known, new = _arguments(call), call.get("id"), piece.get("id")
    if known and new:
        return bool(known != new) and (not so_far or _is_json(so_far))
    return bool(_arguments(piece)) and _is_json(so_far)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _spelled(called: object) -> object:
    """What is called, with its arguments as text; some servers write the object itself."""
    if not isinstance(called, dict) or isinstance(called.get("arguments", ""), str | None):
        return called
    return called | {"arguments": json.dumps(called["arguments"], ensure_ascii=False)}


def _merge(call: dict[str, Any], piece: Mapping[str, Any]) -> None:
    """Add a piece to its call: arguments are appended, and all else is said once."""
    for key, value in piece.items():
        before = call.get(key)
        if isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif isinstance(before, str) and isinstance(value, str) and key in ("arguments", "input"):
            call[key] = before + value
        elif value is not None and (before is None or value):
            call[key] = dict(value) if isinstance(value, dict) else value


def _completed(call: Mapping[str, Any]) -> Mapping[str, Any]:
    made = dict(call)
    if not isinstance(made.get("id"), str) or not made["id"]:
        made["id"] = f"call_{secrets.token_hex(12)}"
    if "function" in made:
        made = {"id": made.pop("id"), "type": "function"} | made
        made["function"] = made["function"] | {"arguments": _arguments(call).strip() or "{}"}
    return {key: _in_whole_characters(value) for key, value in made.items()}


def _in_whole_characters(value: Any) -> Any:
    """The value with every text in whole characters, since no answer can hold half of one."""
    if isinstance(value, dict):
        return {key: _in_whole_characters(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_in_whole_characters(item) for item in value]
    return whole_characters(value) if isinstance(value, str) else value
