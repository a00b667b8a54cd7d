"""Sampling answers: one method between training and whatever generates. Token ids go in and token ids come out."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

Ids = tuple[int, ...]
Player = Literal["leader", "follower", "reference", "mixture"]
"""Who answers: a role that learns, the frozen reference, or nash-md's mixture of the Leader and the reference."""
SEEDS = (1 << 63) - 1
"""The bits of a seed that vLLM takes: its seeds are signed."""


@dataclass(frozen=True, slots=True)
class Sample:
    ids: Ids
    """The answer, with its end-of-sequence token where it has one."""
    logps: tuple[float, ...]
    """Log-prob of each id under what sampled it, at the sampling temperature."""
    ended: bool
    """Whether it came to its end, and was not cut at the limit."""


class Rollout(Protocol):
    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        """One answer for each prompt, by the current weights. A prompt's answer depends on its own seed alone, not on
        what else is in the batch, so that batches and processes can be cut differently with the same result.
        """
