"""Anthropic's messages, written as chat's: what an upstream takes, and what the engine's turns are made of.

They are read as openly as chat's (slhf/history.py). A message may become several: a tool's result, which is a block of
a user's message here, is a message of its own in chat.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Discriminator, StrictBool, StrictStr, Tag

from slhf.history import SPOKEN, STRING_OR_LIST, AnyOf, Content, FunctionCall, Original, Part

_FAILED = "Error: "
"""What a result with `is_error` begins with, because a tool's message of chat cannot say it otherwise."""


class ToolUse(FunctionCall):
    """A call of a tool by the assistant."""

    type: Literal["tool_use"]
    id: StrictStr


class ToolResult(Original):
    """What a called tool answered."""

    type: Literal["tool_result"]
    tool_use_id: StrictStr
    content: Content | None = None
    is_error: StrictBool | None = None


_BLOCKS = {"tool_use": "ToolUse", "tool_result": "ToolResult"}


def _kind_of(block: Any) -> str:
    kind = block.get("type") if isinstance(block, dict) else getattr(block, "type", None)
    return _BLOCKS.get(kind, "Part") if isinstance(kind, str) else "Part"


Block = Annotated[
    Annotated[ToolUse, Tag("ToolUse")] | Annotated[ToolResult, Tag("ToolResult")] | Annotated[Part, Tag("Part")],
    Discriminator(_kind_of),
    AnyOf(),
]


class ConversationMessage(Original):
    """One message of the conversation. An answer can be appended to it as it is."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[Annotated[StrictStr, Tag("string")] | Annotated[list[Block], Tag("list")], STRING_OR_LIST]


@dataclass(frozen=True, slots=True)
class Placed:
    """A message in chat's form, and where the client wrote it."""

    message: dict[str, Any]
    place: str
    """Of its content, such as `messages.2.content`, or `messages.2.content.0.content` for a tool's result."""
    parts: tuple[str, ...] = ()
    """Of each part of its content, where these lie elsewhere than in the place."""

    def names(self, number: int) -> dict[str, str]:
        """The client's names of what errors call by the message's number in chat."""
        ours = f"messages.{number}"
        return {
            ours: self.place.removesuffix(".content"),
            f"{ours}.content": self.place,
            **{f"{ours}.content.{at}": part for at, part in enumerate(self.parts)},
        }


def system_as_chat(system: str | list[Any]) -> Placed:
    """The system prompt, which is no message here, as the first one. `system`: as it was sent."""
    content = system if isinstance(system, str) else [_part(part) for part in system]
    return Placed({"role": "system", "content": content}, "system")


def as_chat(messages: list[ConversationMessage]) -> Iterator[Placed]:
    """Yield chat's messages for all of them, in order."""
    for number, message in enumerate(messages):
        place = f"messages.{number}.content"
        if isinstance(message.content, str):
            yield Placed({"role": message.role, "content": message.content}, place)
        elif message.role == "assistant":
            yield _assistants(message, place)
        else:
            yield from _others(message, place)


def _assistants(message: ConversationMessage, place: str) -> Placed:
    """The assistant's words and calls. What it thought, or what a server's tool did for it, is not read."""
    spoken = (None, *SPOKEN)
    said = [_part(part) for part in message.sent["content"] if isinstance(part, str) or part.get("type") in spoken]
    turn: dict[str, Any] = {"role": "assistant", "content": said or None}
    if calls := [_call(block) for block in message.content if isinstance(block, ToolUse)]:
        turn["tool_calls"] = calls
    return Placed(turn, place)


def _call(block: ToolUse) -> dict[str, Any]:
    return {"id": block.id, "type": "function", "function": {"name": block.name, "arguments": block.arguments}}


def _others(message: ConversationMessage, place: str) -> Iterator[Placed]:
    """Yield a user's or system's message: first the results of tools, which in chat follow their calls."""
    parts: list[tuple[str, Any]] = []
    for at, (block, sent) in enumerate(zip(message.content, message.sent["content"], strict=True)):
        where = f"{place}.{at}"
        if isinstance(block, ToolResult) and message.role == "user":
            yield Placed(_result(block), f"{where}.content")
        else:
            parts.append((where, _part(sent)))
    if parts or not message.content:
        content = [part for _, part in parts]
        yield Placed({"role": message.role, "content": content}, place, tuple(where for where, _ in parts))


def _result(block: ToolResult) -> dict[str, Any]:
    sent = block.sent.get("content") or ""
    content: Any = sent if isinstance(sent, str) else [_part(part) for part in sent]
    if block.is_error:
        content = _FAILED + content if isinstance(content, str) else [{"type": "text", "text": _FAILED}, *content]
    return {"role": "tool", "tool_call_id": block.tool_use_id, "content": content}


def _part(sent: Any) -> Any:
    """A block as chat's part; one that chat does not have stays as it is, and is refused by its type."""
    match sent:
        case {"type": "text", "text": str(text)}:
            return {"type": "text", "text": text}
        case {"type": "document", "source": {"type": "text", "data": str(text)}}:
            return {"type": "text", "text": text}
        case {"type": "image", "source": {"type": "url", "url": str(url)}}:
            return {"type": "image_url", "image_url": {"url": url}}
        case {"type": "image", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            return {"type": "image_url", "image_url": {"url": f"data:{kind};base64,{data}"}}
        case {"type": "document", "source": {"type": "base64", "media_type": str(kind), "data": str(data)}}:
            name = sent.get("title") or "document.pdf"
            return {"type": "file", "file": {"filename": name, "file_data": f"data:{kind};base64,{data}"}}
    return sent
