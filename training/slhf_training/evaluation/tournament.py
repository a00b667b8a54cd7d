"""Tournaments among answers to one prompt: i beats j where p(i beats j) > 1/2."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Tournament:
    answers: int
    """Different ones: the same text twice is one answer, or it would tie with itself."""
    cycle: bool
    """Some answers beat one another round and round."""
    condorcet_winner: bool
    """One answer beats every other."""
    unbeaten: bool
    """One answer is beaten by none: what is left of a Condorcet winner where there are ties."""


def tournament(p: Numbers) -> Tournament:
    """Of (N, N) preferences among different answers; the diagonal is not read."""
    beats = (p > 0.5) & ~np.eye(len(p), dtype=bool)
    return Tournament(
        answers=len(p),
        cycle=has_cycle(beats),
        condorcet_winner=bool((beats.sum(axis=1) == len(p) - 1).any()),
        unbeaten=bool((~beats.any(axis=0)).any()),
    )


def has_cycle(beats: npt.NDArray[np.bool_]) -> bool:
    """Whether the graph has a directed cycle: take off who beats none that is left, until none is left or none can go.

    Without ties a cycle means one of three; with ties the shortest may be longer.
    """
    left = np.ones(len(beats), dtype=bool)
    while left.any():
        last = left & ~(beats & left).any(axis=1)
        if not last.any():
            return True
        left &= ~last
    return False
