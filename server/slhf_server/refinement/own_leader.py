"""What a request asks of the bundle's own Leader, and an upstream would be sent as it came: tools, and how to think."""

from collections.abc import Mapping
from typing import Any, Literal

from slhf_server.errors import BadRequest
from slhf_server.models.base import Engine
from slhf_server.models.tools import Tools, tools_of

_SWITCHES = ("enable_thinking", "thinking")
"""What templates call the switch that `reasoning_effort` turns off with "none", and on with any other word."""
_MOST_TEXT = 200  # characters


def callable_tools(
    asked: Mapping[str, Any], engine: Engine, otherwise: Literal["ignore", "reject"]
) -> tuple[Tools | None, bool]:
    """The tools that the Leader may call, and whether some were offered and had to be left out.

    `otherwise`: what is done for a Leader that cannot call any. Raises BadRequest, also where a call is demanded of it.
    """
    tools = tools_of(asked)
    if tools is None or engine.calls_tools:
        return tools, False
    why = "this model's Leader calls no tools: its chat template knows none, or has no tool_parser"
    if tools.forced:
        raise BadRequest(f"tool_choice: {why}", param="tool_choice")
    if otherwise == "reject":
        raise BadRequest(f"tools: {why}", param="tools")
    return None, True


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
