"""The words that all of training shares: chats, which end with a user's turn, and answers to them."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import numpy.typing as npt


class Message(TypedDict):
    role: str
    content: str


Chat = Sequence[Message]
"""A conversation as chat templates take it."""
ChatKey = tuple[tuple[str, str], ...]


def chat_key(chat: Chat) -> ChatKey:
    """Return what tells a chat from others, its roles and contents, whatever its Python type."""
    return tuple((message["role"], message["content"]) for message in chat)


def as_text(chat: Chat) -> str:
    """Return the chat as judges read it, with a role before each turn."""
    return "\n\n".join(f"{message['role']}: {message['content']}" for message in chat)


Ids = tuple[int, ...]


Player = Literal["leader", "follower", "reference", "mixture"]
"""The one that answers: a role that learns, the frozen reference, or nash-md's mixture of Leader and reference."""


@dataclass(frozen=True, slots=True)
class Sample:
    ids: Ids
    """The answer, with its end-of-sequence token where it has one."""
    logps: tuple[float, ...]
    """Log-prob of each id, in nats, under the model that sampled it and at the sampling temperature."""
    ended: bool
    """Whether it came to its end, and was not cut at the limit."""


Role = Literal["leader", "follower"]


ROLES: tuple[Role, ...] = ("leader", "follower")


Probabilities = npt.NDArray[np.float64]


def digest(content: Any) -> str:
    """Return a key (sha256) for any value that JSON can hold."""
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def sigmoid(x: Probabilities) -> Probabilities:
    """Return the logistic function of x, without overflow at either end; NaN stays NaN."""
    p: Probabilities = (1 + np.tanh(x / 2)) / 2
    return p
