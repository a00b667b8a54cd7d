"""Tools that a model of ours may call: OpenAI's `tools`, `tool_choice` and `parallel_tool_calls`, read and checked.

An upstream gets them as they came and judges for itself; this is what the bundle's own Leader is told of them.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import Field, StrictBool, StrictStr, TypeAdapter, ValidationError

from slhf.history import History
from slhf.json_text import read_json
from slhf_server.errors import BadRequest
from slhf_server.models.structured_output.response_format import StructuredOutput, check_size, structured_output_of
from slhf_server.models.structured_output.workers import Workers

_NO_ARGUMENTS: dict[str, Any] = {"type": "object", "properties": {}}
_DEFINITIONS = ("$defs", "definitions")
"""Where a schema keeps what its references (`#/$defs/NAME`) name: at the root, so they move there."""


class _Function(History):
    name: StrictStr = Field(min_length=1, max_length=256)
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class _Tool(History):
    type: StrictStr
    function: _Function | None = None


_TOOLS = TypeAdapter(list[_Tool])


@dataclass(frozen=True, slots=True)
class Tools:
    """What one completion may call."""

    offered: tuple[Mapping[str, Any], ...]
    """Each as OpenAI writes it: `{type: "function", function: {name, description, parameters}}`."""
    required: bool = False
    """Whether the completion must be a call."""
    named: str | None = None
    """The one function that must be called; None: any of them."""
    parallel: bool = True
    """Whether one turn may call several."""

    @property
    def forced(self) -> bool:
        """Whether the completion is nothing but calls, written under a grammar."""
        return self.required or self.named is not None

    def structure(self, workers: Workers) -> StructuredOutput | None:
        """The JSON that a forced call is written as: a named function's arguments, or a list of name and parameters.

        None where the model chooses. The caller has to call `check`. Raises BadRequest.
        """
        if not self.forced:
            return None
        schema = self._arguments_of(self.named) if self.named is not None else self._calls()
        asked = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
        return structured_output_of(asked, workers, param="tools")

    def _arguments_of(self, name: str) -> dict[str, Any]:
        functions = {tool["function"]["name"]: tool["function"] for tool in self.offered}
        return dict(functions[name].get("parameters") or _NO_ARGUMENTS)

    def _calls(self) -> dict[str, Any]:
        """As vLLM asks for them, so that vLLM can read them: `[{"name": ..., "parameters": {...}}, ...]`."""
        shared: dict[str, dict[str, Any]] = {}
        calls = []
        for tool in self.offered:
            name = tool["function"]["name"]
            arguments = self._arguments_of(name)
            for place in _DEFINITIONS:
                _merge(shared.setdefault(place, {}), arguments.pop(place, {}), f"{name}.{place}")
            calls.append(
                {
                    "type": "object",
                    "properties": {"name": {"const": name}, "parameters": arguments},
                    "required": ["name", "parameters"],
                    "additionalProperties": False,
                }
            )
        whole: dict[str, Any] = {"type": "array", "minItems": 1, "items": {"anyOf": calls}}
        if not self.parallel:
            whole["maxItems"] = 1
        return whole | {place: definitions for place, definitions in shared.items() if definitions}


def tools_of(asked: Mapping[str, Any]) -> Tools | None:
    """What a chat's `tools`, `tool_choice` and `parallel_tool_calls` let the model call; None: nothing.

    Raises BadRequest naming what is wrong.
    """
    choice = asked.get("tool_choice")
    if choice == "none":
        return None
    offered = _offered(asked.get("tools"))
    forced = choice not in (None, "auto")
    if not offered:
        if forced:
            raise BadRequest("tool_choice asks for a call, and there are no tools", param="tool_choice")
        return None
    parallel = asked.get("parallel_tool_calls")
    if not isinstance(parallel, bool | None):
        raise BadRequest("parallel_tool_calls must be true or false", param="parallel_tool_calls")
    named = _named(choice, offered) if forced and choice != "required" else None
    return Tools(offered, choice == "required", named, parallel is not False)


def arguments_of(text: str) -> Any:
    """A call's arguments as chat templates want them: the object that the JSON spells, or the text where it spells
    none."""
    try:
        said = read_json(text)
    except ValueError:
        return text
    return said if isinstance(said, dict) else text


def _offered(tools: Any) -> tuple[Mapping[str, Any], ...]:
    try:
        read = _TOOLS.validate_python(tools or [])
    except ValidationError as exc:
        error = exc.errors()[0]
        place = ".".join(map(str, ("tools", *error["loc"])))
        raise BadRequest(f"{place}: {error['msg']}", param=place) from exc
    names = set[str]()
    for at, tool in enumerate(read):
        if tool.type != "function" or tool.function is None:
            raise BadRequest("this model calls functions alone: type must be 'function'", param=f"tools.{at}.type")
        if tool.function.name in names:
            name = json.dumps(tool.function.name)[:80]
            raise BadRequest(f"two tools have the name {name}", param=f"tools.{at}.function.name")
        names.add(tool.function.name)
        check_size(tool.function.parameters or {}, f"tools.{at}.function.parameters")
    functions = (tool.function.model_dump(exclude_none=True) for tool in read if tool.function is not None)
    return tuple({"type": "function", "function": function} for function in functions)


def _named(choice: Any, offered: Sequence[Mapping[str, Any]]) -> str:
    match choice:
        case {"type": "function", "function": {"name": str(name)}} | {"type": "function", "name": str(name)}:
            if any(tool["function"]["name"] == name for tool in offered):
                return name
            raise BadRequest("tool_choice names a function that is not among the tools", param="tool_choice")
    raise BadRequest(
        'tool_choice must be "none", "auto", "required" or {"type": "function", "function": {"name": ...}}',
        param="tool_choice",
    )


def _merge(into: dict[str, Any], definitions: Any, place: str) -> None:
    """Add a schema's definitions to those of the others. Raises BadRequest where one name means two things."""
    for name, definition in definitions.items() if isinstance(definitions, dict) else ():
        if into.setdefault(name, definition) != definition:
            raise BadRequest(f"{place}: {name[:60]!r} is another definition in another tool", param="tools")
