"""Preference matrices P[y, y'] = p(y beats y'), (n, n): where they come from, and whether their majority is consistent.

An answer beats another where P > 1/2; 1/2 is a tie, and NaN (a judge that abstained) beats nothing and is not beaten.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from slhf_training.tabular.policies import Array

Flags = npt.NDArray[np.bool_]

CONDORCET = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
"""Three annotator types who rank A > B > C, B > C > A and C > A > B: in equal shares their majority is a cycle."""


def of_annotators(rankings: npt.NDArray[np.int_], shares: Sequence[float] | Array) -> Array:
    """P of a population. `rankings` (k, n): each type's answers, the favourite first; `shares` (k,) add up to 1."""
    rank = np.argsort(rankings, axis=1)  # (k, n): the place of each answer
    prefers = (rank[:, :, None] < rank[:, None, :]) + np.eye(rankings.shape[1]) / 2  # (k, n, n)
    return np.asarray(np.tensordot(np.asarray(shares), prefers, axes=1))


def random_cyclic(n: int, rng: np.random.Generator) -> Array:
    """A random game on n >= 3 answers with a cycle through all of them, and so without a Condorcet winner."""
    if n < 3:
        raise ValueError(f"a cycle takes 3 answers or more, got {n}")
    upper = np.triu(rng.uniform(0, 1, (n, n)), 1)
    preference = upper + np.tril(1 - upper.T, -1) + np.eye(n) / 2
    order = rng.permutation(n)
    for winner, loser in zip(order, np.roll(order, -1), strict=True):
        preference[winner, loser] = rng.uniform(0.55, 0.95)
        preference[loser, winner] = 1 - preference[winner, loser]
    return preference


def condorcet_winner(preference: Array) -> int | None:
    """The answer that beats every other, if there is one."""
    beats = (preference > 0.5) | np.eye(len(preference), dtype=bool)
    winners = np.flatnonzero(beats.all(axis=1))
    return int(winners[0]) if len(winners) else None


def has_cycle(preference: Array) -> bool:
    """Whether the majority goes round somewhere: y beats ... beats y."""
    return bool(np.diag(reachable(preference > 0.5)).any())


def cyclic_triples(preference: Array) -> float:
    """The share of the triples of answers that are a cycle: 0 for a consistent order, at most 1 for n = 3."""
    n = len(preference)
    if n < 3:
        return 0.0
    beats = (preference > 0.5).astype(int)
    cycles = np.trace(beats @ beats @ beats) / 3  # each is found from each of its three answers
    return float(cycles / (n * (n - 1) * (n - 2) / 6))


def reachable(edges: Flags) -> Flags:
    """(n, n): whether a path of one edge or more leads from one to the other (Warshall)."""
    paths = edges.copy()
    for via in range(len(edges)):
        paths |= paths[:, via, None] & paths[None, via]
    return paths
