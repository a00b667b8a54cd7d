"""What a request asks of the bundle's own Leader, and an upstream would be sent as it came: tools, and how to think."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, StrictBool, StrictStr, TypeAdapter, ValidationError

from slhf.history import History
from slhf_server.errors import BadRequest
from slhf_server.models.base import Engine
from slhf_server.models.structured_output.response_format import StructuredOutput, check_size, structured_output_of
from slhf_server.models.structured_output.workers import Workers
from slhf_server.models.tools import Tools

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
_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the switch that `reasoning_effort` turns off with "none", and on with any other word."""
_MOST_TEXT = 200  # characters
_MOST_TOOLS = 512  # four times as many as OpenAI takes; they are read on the event loop


def callable_tools(
    asked: Mapping[str, Any], engine: Engine, otherwise: Literal["ignore", "reject"]
) -> tuple[Tools | None, bool]:
    """The tools that the Leader may call, and whether some were offered and had to be left out.

    `otherwise`: what is done for a Leader that cannot call any. Raises BadRequest, also where a call is demanded of it.
    """
    tools = _tools(asked)
    if tools is None or engine.calls_tools:
        return tools, False
    why = "this model's Leader calls no tools: its chat template knows none, or has no tool_parser"
    if tools.forced:
        raise BadRequest(f"tool_choice: {why}", param="tool_choice")
    if otherwise == "reject":
        raise BadRequest(f"tools: {why}", param="tools")
    return None, True


def demanded_call(tools: Tools, workers: Workers) -> StructuredOutput | None:
    """What a call that must come is written as: a named function's arguments, or a list of names and parameters.

    None where the model chooses. The caller has to call `check`. Raises BadRequest.
    """
    if not tools.forced:
        return None
    functions = [tool["function"] for tool in tools.offered]
    named = next((function for function in functions if function["name"] == tools.named), None)
    schema = _calls(functions, tools.parallel) if named is None else _arguments(named)
    asked = {"type": "json_schema", "json_schema": {"name": "call", "schema": schema}}
    return structured_output_of(asked, workers, param="tools")


def _arguments(function: Mapping[str, Any]) -> dict[str, Any]:
    return dict(function.get("parameters") or _NO_ARGUMENTS)


def template_options(asked: Mapping[str, Any], engine: Engine) -> dict[str, Any]:
    """The chat template's variables that a chat sets. Raises BadRequest for one that this template does not know."""
    options = asked.get("chat_template_kwargs") or {}
    if not isinstance(options, dict):
        raise BadRequest("chat_template_kwargs must be an object", param="chat_template_kwargs")
    for name, value in options.items():
        if name not in engine.template_options:
            known = ", ".join(sorted(engine.template_options)) or "none"
            message = f"this model's chat template has no variable {name[:60]!r}; it has {known}"
            raise BadRequest(message, param="chat_template_kwargs")
        if not isinstance(value, bool | int | float | str | None) or len(str(value)) > _MOST_TEXT:
            message = f"{name} must be true, false, a number or a text of at most {_MOST_TEXT} characters"
            raise BadRequest(f"chat_template_kwargs: {message}", param="chat_template_kwargs")
    return _effort(asked.get("reasoning_effort"), engine) | options


def _effort(effort: Any, engine: Engine) -> dict[str, Any]:
    """What `reasoning_effort` is to a template, as vLLM reads it: a word, and a switch."""
    if effort is None:
        return {}
    if effort not in ("none", "minimal", "low", "medium", "high", "xhigh", "max"):
        message = "reasoning_effort must be none, minimal, low, medium, high, xhigh or max"
        raise BadRequest(message, param="reasoning_effort")
    known = {"reasoning_effort": effort, **dict.fromkeys(_SWITCHES, effort != "none")}
    said = {name: value for name, value in known.items() if name in engine.template_options}
    if not said and effort != "none":
        message = "reasoning_effort: this model's chat template has no variable for it: leave it out"
        raise BadRequest(message, param="reasoning_effort")
    return said


def _tools(asked: Mapping[str, Any]) -> Tools | None:
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


def _calls(functions: Sequence[Mapping[str, Any]], parallel: bool) -> dict[str, Any]:
    """As vLLM asks for them, so that vLLM can read them: `[{"name": ..., "parameters": {...}}, ...]`."""
    shared: dict[str, dict[str, Any]] = {}
    calls = []
    for function in functions:
        name, arguments = function["name"], _arguments(function)
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
    if not parallel:
        whole["maxItems"] = 1
    return whole | {place: definitions for place, definitions in shared.items() if definitions}


def _offered(tools: Any) -> tuple[Mapping[str, Any], ...]:
    if isinstance(tools, list) and len(tools) > _MOST_TOOLS:
        raise BadRequest(f"tools: more than {_MOST_TOOLS} tools", param="tools")
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
