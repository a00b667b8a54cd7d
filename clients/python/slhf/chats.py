"""What a chat template renders: turns, and the tools, calls and results that some templates know."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

_PLAIN_KEY = re.compile(r"[\w$.-]*")
_COMPARED = ("type", "id", "tool_call_id")
"""Keys whose values templates compare or measure: a word there is shown as it is."""


@dataclass(frozen=True, slots=True)
class ToolTurn:
    """A message in which a template reads more than role and text."""

    role: str
    text: str
    more: Mapping[str, Any]
    """The message's further keys: `tool_calls`, or `tool_call_id` and `name`; empty for what a user says."""


Turn = tuple[str, str | tuple[int, ...]] | ToolTurn
"""A role and its content: text, or token ids to take as they are; or a message with tool calls or a result."""


@dataclass(frozen=True, slots=True)
class Chat:
    """What is rendered."""

    turns: Sequence[Turn]
    tools: Sequence[Mapping[str, Any]] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def strings(self) -> Iterator[str]:
        """Every string of tools and calls, which a template shows among its own text."""
        yield from strings(self.tools)
        for turn in self.turns:
            yield from strings(more_of(turn))


_TOOLS: Sequence[Mapping[str, Any]] = (
    {
        "type": "function",
        "function": {
            "name": "look_up",
            "description": "Looks up a word.",
            "parameters": {"type": "object", "properties": {"word": {"type": "string", "description": "Which one."}}},
        },
    },
)
"""A tool to try a template with."""
_CALLED: Sequence[ToolTurn] = (
    ToolTurn(
        "assistant",
        "",
        {
            "tool_calls": [
                {
                    "id": "call00001",
                    "type": "function",
                    "function": {"name": "look_up", "arguments": {"word": "zebra"}},
                }
            ]
        },
    ),
    ToolTurn("tool", "An animal.", {"name": "look_up", "tool_call_id": "call00001"}),
)
"""Its call and its result."""


def filled(value: Any, shown: Callable[[str], str]) -> Any:
    """A copy of JSON with each string as `shown` gives it, keys that are no plain words included."""
    if isinstance(value, str):
        return shown(value)
    if isinstance(value, Mapping):
        return {
            key if _PLAIN_KEY.fullmatch(key) else shown(key): item if _is_compared(key, item) else filled(item, shown)
            for key, item in value.items()
        }
    return [filled(item, shown) for item in value] if isinstance(value, list | tuple) else value


def strings(value: Any) -> Iterator[str]:
    """Every string that `filled` shows."""
    found: list[str] = []
    filled(value, lambda said: found.append(said) or said)  # type: ignore[func-returns-value]
    yield from found


def _is_compared(key: str, item: Any) -> bool:
    return key in _COMPARED and isinstance(item, str) and _PLAIN_KEY.fullmatch(item) is not None


def role_of(turn: Turn) -> str:
    return turn.role if isinstance(turn, ToolTurn) else turn[0]


def content_of(turn: Turn) -> str | tuple[int, ...]:
    return turn.text if isinstance(turn, ToolTurn) else turn[1]


def more_of(turn: Turn) -> dict[str, Any]:
    return dict(turn.more) if isinstance(turn, ToolTurn) else {}


def text_of(turn: Turn) -> str:
    content = content_of(turn)
    return content.strip() if isinstance(content, str) else ""


def joined(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with neighbours of one role joined by a blank line; token ids, calls and results stay alone."""
    fewer: list[Turn] = []
    for (role, is_text), run in groupby(turns, lambda turn: (role_of(turn), _is_text(turn))):
        if is_text:
            fewer.append((role, "\n\n".join(str(content_of(turn)) for turn in run)))
        else:
            fewer += run
    return fewer


def _is_text(turn: Turn) -> bool:
    return isinstance(content_of(turn), str) and not more_of(turn)


OFFERING = Chat([("user", "Hello")], _TOOLS)
CALLING = Chat([("user", "Hello"), *_CALLED])


def saying(chat: Chat, text: str) -> Chat:
    """The chat with this text in the place of every content, those of tools and calls included."""
    turns = [
        ToolTurn(turn.role, turn.text and text, filled(turn.more, lambda _: text))
        if isinstance(turn, ToolTurn)
        else (turn[0], text)
        for turn in chat.turns
    ]
    return replace(chat, turns=turns, tools=[filled(tool, lambda _: text) for tool in chat.tools])
