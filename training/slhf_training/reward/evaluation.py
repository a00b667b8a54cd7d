"""Measures how good a preference is on pairs whose better answer is known."""

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from slhf_training.data import Example, Pair
from slhf_training.types import Probabilities

Numbers = npt.NDArray[np.float64]


EDGES = (-np.inf, -50, -10, 10, 50, np.inf)
"""Edges of the buckets, in words that the better answer has more than the other one."""


ALIKE = 1.1
"""Two answers count as about equally long up to this ratio of 1 + words."""


def pair_report(p: Probabilities, examples: Sequence[Example]) -> dict[str, Any]:
    """Return the figures of `p` (B,), which is p(chosen beats rejected).

    A tie is half right. Abstentions are counted and left out of all shares.
    """
    judged = ~np.isnan(p)
    p = p[judged]
    kept = [example for example, is_judged in zip(examples, judged, strict=True) if is_judged]
    longer = np.array([_words_more(example.pair) for example in kept])
    right = (1 + np.sign(p - 0.5)) / 2
    ranges = {f"{low:g} to {high:g}": (longer > low) & (longer <= high) for low, high in pairwise(EDGES)}
    sources = np.array([example.source for example in kept])
    ratio = np.array([_ratio(example.pair) for example in kept])
    lengths = {
        "chosen longer": ratio > ALIKE,
        "about equal": (ratio <= ALIKE) & (ratio >= 1 / ALIKE),
        "chosen shorter": ratio < 1 / ALIKE,
    }
    unlike = longer != 0
    return {
        "pairs": len(p),
        "abstained": int((~judged).sum()),
        "coverage": float(judged.mean()) if len(judged) else None,
        **_share(right),
        "interval": wilson(float(right.sum()), len(right)),
        "log_loss": float(-np.log(np.clip(p, 1e-12, 1)).mean()) if len(p) else None,
        "ece": calibration_error(p) if len(p) else None,
        "longer_wins": _share((1 + np.sign(longer)) / 2)["accuracy"],
        "picks_longer": _share(np.where(longer > 0, right, 1 - right)[unlike])["accuracy"],
        "by_length": {name: _share(right[inside]) for name, inside in lengths.items()},
        "by_words_more": {name: _share(right[inside]) for name, inside in ranges.items()},
        "by_source": {str(name): _share(right[sources == name]) for name in np.unique(sources)},
    }


def wilson(right: float, n: int) -> tuple[float, float] | None:
    """Return the 95 % interval of the share right / n (Wilson 1927), which holds at 0 and 1, too; None where n is 0."""
    if n == 0:
        return None
    z = 1.959964
    middle = (right + z**2 / 2) / (n + z**2)
    half = z / (n + z**2) * math.sqrt(right * (n - right) / n + z**2 / 4)
    return middle - half, middle + half


def calibration_error(p: Probabilities, bins: int = 10) -> float:
    """Return the expected calibration error of p(chosen beats rejected).

    A judgement's confidence is max(p, 1 - p), in equal bins of [0.5, 1]; the error is the mean over judgements of
    |share right - mean confidence| of their bin. A tie is half right.
    """
    confidence = np.maximum(p, 1 - p)
    right = (1 + np.sign(p - 0.5)) / 2
    bin_of = np.minimum(((confidence - 0.5) * 2 * bins).astype(int), bins - 1)
    gaps = [abs((right - confidence)[bin_of == number].sum()) for number in range(bins)]
    return float(sum(gaps) / len(p))


def score_report(scores: Numbers, targets: Numbers) -> dict[str, Any]:
    """Return the figures of (N,) scores against the data's; `variance` is the squared error of the mean alone."""
    read = ~np.isnan(scores)
    scores, targets = scores[read], targets[read]
    spread = len(targets) > 1 and scores.std() > 0 and targets.std() > 0
    return {
        "answers": len(targets),
        "abstained": int((~read).sum()),
        "squared_error": float(((scores - targets) ** 2).mean()) if len(targets) else None,
        "variance": float(targets.var()) if len(targets) else None,
        "correlation": float(np.corrcoef(scores, targets)[0, 1]) if spread else None,
    }


def _share(right: Numbers) -> Mapping[str, Any]:
    """Return the accuracy a with its standard error, sqrt(a (1 - a) / n)."""
    if not len(right):
        return {"n": 0, "accuracy": None, "standard_error": None}
    accuracy = float(right.mean())
    return {
        "n": len(right),
        "accuracy": accuracy,
        "standard_error": float(np.sqrt(accuracy * (1 - accuracy) / len(right))),
    }


def _ratio(pair: Pair | None) -> float:
    assert pair is not None
    return (1 + len(pair.chosen.split())) / (1 + len(pair.rejected.split()))


def _words_more(pair: Pair | None) -> int:
    assert pair is not None
    return len(pair.chosen.split()) - len(pair.rejected.split())
