"""What training speaks about: chats, ending with a user's turn, and answers to them."""

from collections.abc import Sequence
from typing import TypedDict


class Message(TypedDict):
    role: str
    content: str


Chat = Sequence[Message]
"""A conversation as chat templates take it."""
Turns = tuple[tuple[str, str], ...]


def turns(chat: Chat) -> Turns:
    """Roles and contents: what tells a chat from others, as a key."""
    return tuple((message["role"], message["content"]) for message in chat)


def as_text(chat: Chat) -> str:
    """As judges read it, a role before each turn."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in chat)
