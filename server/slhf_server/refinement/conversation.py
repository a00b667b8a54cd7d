"""Turns the messages of a request into the conversation that the Leader and the Follower see."""

import logging
from collections.abc import Iterable, Mapping, Sequence

from slhf.chats import ToolTurn
from slhf.history import SPOKEN, Message
from slhf_server.errors import BadRequest
from slhf_server.models.base import Turn
from slhf_server.models.reasoning import strip_reasoning
from slhf_server.models.tools import arguments_of

_MEDIA = ("image_url", "input_audio", "file", "video_url")
_logger = logging.getLogger(__name__)


def check(messages: Sequence[Message]) -> None:
    """Raises BadRequest unless the conversation ends where an assistant's answer is due."""
    check_begun(messages)
    if messages[-1].role == "assistant":
        raise BadRequest(
            "the last message is an assistant's. To have it refined, pass its text as 'draft' "
            "('refine.draft' in chat) and end messages with the user's turn; prefilling an answer is not supported",
            param="messages",
        )
    if messages[-1].role != "user" and not messages[-1].is_result:
        raise BadRequest("the last message must be a user's, or a tool's result", param="messages")


def check_begun(messages: Sequence[Message]) -> None:
    """Raises BadRequest for a conversation in which nobody says anything."""
    if not messages:
        raise BadRequest("the conversation is empty: give at least one user turn", param="messages")


def check_parts(messages: Sequence[Message], drafter: str) -> None:
    """Raises BadRequest for a part that no model would read, such as an image for a Leader on the engine.

    `drafter` writes the draft. An upstream gets every part as it came; where the client wrote the draft itself, images
    may be in the conversation and are not read.
    """
    for position, message in enumerate(messages):
        for at, kind in message.others:
            if drafter == "upstream" or (drafter == "client" and kind in _MEDIA):
                continue
            place = f"messages.{position}.content.{at}"
            if kind in SPOKEN:
                raise BadRequest(f"a part of type {kind!r} with no text", param=f"{place}.{SPOKEN[kind]}")
            raise BadRequest(
                f"a part of type {kind[:60]!r}: this model reads text alone; {', '.join(_MEDIA)} need a served model "
                "whose Leader is an upstream",
                param=f"{place}.type",
            )


def log_unread(messages: Sequence[Message]) -> None:
    """Log, for debugging, the keys that nothing here reads; an upstream gets them as they came."""
    if _logger.isEnabledFor(logging.DEBUG):
        unread = {name for message in messages for name in message.unread}
        if unread:
            shown = [name[:60] for name in sorted(unread)[:20]]
            _logger.debug("keys of messages that are not read: %s", ", ".join(map(ascii, shown)))


def as_sent(messages: Iterable[Message]) -> tuple[Turn, ...]:
    """A turn for each message as it came, for an upstream."""
    return tuple(Turn(m.role, m.text, message=m.sent) for m in messages)


def as_text(messages: Sequence[Message]) -> tuple[Turn, ...]:
    """Turns of text alone, which every chat template takes; tool calls and their results are told in words.

    Results and the user's next message become one turn, because many templates want user and assistant to alternate.
    Beside the words, such a turn has the same as tool turns, for a template that knows them.
    """
    names = {id: call.name for m in messages for id, call in m.calls if id is not None}
    numbers = {id: f"call{number:05}" for number, id in enumerate(names)}
    runs: list[list[Message]] = []
    for message in messages:
        if runs and runs[-1][-1].is_result and (message.is_result or message.role == "user"):
            runs[-1].append(message)
        else:
            runs.append([message])
    return tuple(_turn(run, names, numbers) for run in runs)


def _turn(run: Sequence[Message], names: Mapping[str, str], numbers: Mapping[str, str]) -> Turn:
    role = "user" if run[0].is_result else "system" if run[0].role == "developer" else run[0].role
    has_tools = run[0].is_result or bool(run[0].calls)
    tool_turns = tuple(_tool_turn(message, names, numbers) for message in run) if has_tools else ()
    return Turn(role, "\n\n".join(_text(message, names) for message in run), tool_turns=tool_turns)


def _tool_turn(message: Message, names: Mapping[str, str], numbers: Mapping[str, str]) -> ToolTurn:
    """The message as a chat template with tools has it. Ids are numbered anew, because Mistral's wants nine letters."""
    if message.is_result:
        told = message.tool_call_id or ""
        name = names.get(told, message.tool or "tool")
        return ToolTurn("tool", message.text, {"name": name, "tool_call_id": numbers.get(told, "call99999")})
    if message.role != "assistant":
        return ToolTurn(message.role, message.text, {})
    calls = [
        {
            "id": numbers.get(id or "", "call99999"),
            "type": "function",
            "function": {"name": call.name, "arguments": arguments_of(call.arguments)},
        }
        for id, call in message.calls
    ]
    return ToolTurn("assistant", strip_reasoning(message.text), {"tool_calls": calls})


def _text(message: Message, names: Mapping[str, str]) -> str:
    if message.is_result:
        return f"Result of {names.get(message.tool_call_id or '', message.tool or 'tool')}:\n{message.text}"
    if message.role != "assistant":
        return message.text
    calls = (f"Called {call.name} with {call.arguments}" for _, call in message.calls)
    return "\n".join(part for part in (strip_reasoning(message.text), *calls) if part)
