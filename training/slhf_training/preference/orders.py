"""Asking in both orders, which cancels what a judge gives to a place instead of an answer."""

from collections.abc import Sequence

from slhf_training.preference import Preference, Probabilities
from slhf_training.types import Chat


def both_orders(source: Preference) -> Preference:
    """The mean of p(first, second) and 1 - p(second, first), asked as one batch; NaN where either abstains."""

    def asked(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p = source([*chats, *chats], [*first, *second], [*second, *first])
        forward, backward = p[: len(chats)], p[len(chats) :]
        mean: Probabilities = (forward + 1 - backward) / 2
        return mean

    return asked
