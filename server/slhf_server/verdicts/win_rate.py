"""How often the refined text wins, and how sure that is.

The interval is a confidence sequence: it holds at every look at once, so whoever looks daily and stops when it pleases
is not fooled. Under a win rate p the likelihood ratio of the uniform mixture (Robbins 1970)

    B(1 + w, 1 + l) / (p^w (1 - p)^l)        w wins, l losses, B the beta function

is a martingale with expectation 1, so it ever reaches 1 / alpha with a probability of at most alpha (Ville 1939). The p
for which it has not are the interval. Ties say nothing about p.

Length control is that of `slhf-train evaluate` (AlpacaEval 2, Dubois et al. 2024, arXiv 2404.04475):

    logit P(win) = theta + phi * tanh(d / std(d))        d: characters that the refined text has more

with the length term set to zero afterwards, so the controlled rate is sigmoid(theta). A weak normal prior of precision
`RIDGE` on both keeps them finite where one side always wins.
"""

import math
import statistics
from collections.abc import Callable, Sequence

from slhf.verdicts import Decision

LEVEL = 0.95
RIDGE = 0.01
_HALVINGS = 60
_STEPS = 50
_CLOSE = 1e-10
_LONGEST_STEP = 2.0


def interval(wins: int, losses: int, level: float = LEVEL) -> tuple[float, float]:
    """The win rates that are still possible, from the lowest to the highest; 0 and 1 of nothing."""
    floor = math.log1p(-level) + math.lgamma(1 + wins) + math.lgamma(1 + losses) - math.lgamma(2 + wins + losses)

    def possible(p: float) -> bool:
        return _times_log(wins, p) + _times_log(losses, 1 - p) > floor

    middle = wins / (wins + losses) if wins + losses else 0.5
    low = 0.0 if wins == 0 else _edge(possible, middle, 0.0)
    high = 1.0 if losses == 0 else _edge(possible, middle, 1.0)
    return low, high


def _times_log(count: int, p: float) -> float:
    return 0.0 if count == 0 else -math.inf if p <= 0 else count * math.log(p)


def _edge(possible: Callable[[float], bool], inside: float, outside: float) -> float:
    """Where what is possible ends between two points."""
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        inside, outside = (middle, outside) if possible(middle) else (inside, middle)
    return inside


def decision(wins: int, losses: int) -> Decision:
    """Whether to refine."""
    low, high = interval(wins, losses)
    return "on" if low > 0.5 else "off" if high < 0.5 else "undecided"


def length_controlled(scores: Sequence[float], longer: Sequence[int], ridge: float = RIDGE) -> float | None:
    """The win rate at equal length, from scores (1, 0, and a half for a tie) and the characters that each refined text
    has more. None of none, or where all differences are one and the same: length cannot be told from quality."""
    spread = statistics.pstdev(longer) if longer else 0.0
    if not scores or (spread == 0 and any(longer)):
        return None
    shape = [math.tanh(each / spread) if spread else 0.0 for each in longer]
    theta, phi = 0.0, 0.0
    for _ in range(_STEPS):
        a, b = _newton(scores, shape, theta, phi, ridge)
        scale = min(1.0, _LONGEST_STEP / max(abs(a), abs(b), _CLOSE))  # no leaps into saturation
        theta, phi = theta - a * scale, phi - b * scale
        if max(abs(a), abs(b)) < _CLOSE:
            break
    return _sigmoid(theta)


def _newton(
    scores: Sequence[float], shape: Sequence[float], theta: float, phi: float, ridge: float
) -> tuple[float, float]:
    """A step of Newton's method on the cross entropy and the prior."""
    slope_a, slope_b = ridge * theta, ridge * phi
    aa, ab, bb = ridge, 0.0, ridge
    for score, x in zip(scores, shape, strict=True):
        q = _sigmoid(theta + phi * x)
        slope_a, slope_b = slope_a + q - score, slope_b + (q - score) * x
        weight = q * (1 - q)
        aa, ab, bb = aa + weight, ab + weight * x, bb + weight * x * x
    determinant = aa * bb - ab * ab
    return (bb * slope_a - ab * slope_b) / determinant, (aa * slope_b - ab * slope_a) / determinant


def _sigmoid(x: float) -> float:
    return (1 + math.tanh(x / 2)) / 2
