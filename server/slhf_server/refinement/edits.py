"""How much of a text a round has changed."""

from collections import Counter

from rapidfuzz.distance import Indel

_MOST_ORDERED = 4_000  # words


def edit_ratio(before: str, after: str) -> float:
    """Share of words inserted or deleted between two texts: 0 for the same words, 1 when nothing is kept.

    For texts with thousands of words the order is ignored: it takes quadratic time, which would hold the event loop.
    """
    one, other = before.split(), after.split()
    if max(len(one), len(other)) <= _MOST_ORDERED:
        return Indel.normalized_distance(one, other)
    return 1 - 2 * (Counter(one) & Counter(other)).total() / (len(one) + len(other))
