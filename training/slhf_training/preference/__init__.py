"""Preference sources: who judges whether one answer beats another. One source, one file."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from slhf_training.types import Chat

Probabilities = npt.NDArray[np.float64]


class Preference(Protocol):
    """p(first beats second | chat) for a batch; it may be intransitive, and no scalar reward need stand behind it."""

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        """(B,) in [0, 1]; a tie is 0.5. NaN: the source abstains (a judge that failed); the pair is dropped, counted.

        Swapping the answers gives one minus the value.
        """
