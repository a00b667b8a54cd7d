"""From the messages of a request to the turns that the Leader and the Follower see."""

from collections.abc import Iterable, Mapping, Sequence

from slhf.wire import Message
from slhf_server.errors import BadRequest
from slhf_server.model import Turn
from slhf_server.reasoning import without_thoughts


def check(messages: Sequence[Message]) -> None:
    """Raises BadRequest unless the conversation ends where an assistant's answer is due."""
    if not messages:
        raise BadRequest("messages is empty: give at least one user turn", param="messages")
    if messages[-1].role == "assistant":
        raise BadRequest(
            "the last message is an assistant's. To have it refined, pass its text as 'draft' "
            "('refine.draft' in chat) and end messages with the user's turn; prefilling an answer is not supported",
            param="messages",
        )
    if messages[-1].role not in ("user", "tool"):
        raise BadRequest("the last message must be a user's, or a tool's result", param="messages")


def as_sent(messages: Iterable[Message]) -> tuple[Turn, ...]:
    """A turn for each message as it came, for an upstream."""
    return tuple(Turn(m.role, m.text, message=m.model_dump(exclude_none=True)) for m in messages)


def as_text(messages: Iterable[Message]) -> tuple[Turn, ...]:
    """Turns of text alone, which every chat template takes: tool calls and their results are told in words.

    Results and what the user says next are one turn, because many templates want user and assistant in turn.
    """
    turns: list[Turn] = []
    names: dict[str, str] = {}
    after_result = False
    for message in messages:
        names |= {call.id: call.function.name for call in message.tool_calls or ()}
        turn = _turn(message, names)
        if after_result and turn.role == "user":
            turns[-1] = Turn("user", f"{turns[-1].text}\n\n{turn.text}")
        else:
            turns.append(turn)
        after_result = message.role == "tool"
    return tuple(turns)


def _turn(message: Message, names: Mapping[str, str]) -> Turn:
    if message.role == "tool":
        return Turn("user", f"Result of {names.get(message.tool_call_id or '', 'tool')}:\n{message.text}")
    return Turn("system" if message.role == "developer" else message.role, _text(message))


def _text(message: Message) -> str:
    if message.role != "assistant":
        return message.text
    calls = (f"Called {call.function.name} with {call.function.arguments}" for call in message.tool_calls or ())
    return "\n".join(part for part in (without_thoughts(message.text), *calls) if part)
