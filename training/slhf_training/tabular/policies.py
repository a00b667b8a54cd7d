"""Distributions over a finite set of n answers, the exact best response, and the two steps of a gradient method.

All of them look for the maximum over q of  payoff . q - tau KL(q || reference):

    best response    q ~ reference exp(payoff / tau), worth tau log sum reference exp(payoff / tau)
    mirror step      q ~ (p reference^(r tau) exp(r payoff))^(1 / (1 + r tau))
    projected step   q = Proj(p + r (payoff - tau log(p / reference)))

from a policy p at rate r; the mirror step at rate infinity is the best response.

The mirror step takes the KL to the reference as it is and only the payoff by its gradient, so no rate is too large for
it. The projected step takes the gradient of both, which is unbounded at zero: it projects on the distributions whose
probabilities are all at least FLOOR. (The derivative's constant, -tau, is the same for all answers and projects away.)
"""

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FLOOR = 1e-6  # the least probability after a projected step
_TINY = 1e-300  # what a probability that underflowed is taken for, in logarithms


def answers(preference: Array) -> int:
    """n of a preference matrix (n, n). Raises ValueError for anything else, NaN among them."""
    n = len(preference)
    if preference.shape != (n, n) or not ((preference >= 0) & (preference <= 1)).all():
        raise ValueError(f"preference must be a square matrix of probabilities, got shape {preference.shape}")
    return n


def checked_reference(reference: Array | None, n: int) -> Array:
    """The reference, (n,); uniform where there is none. Raises ValueError unless its support is full."""
    if reference is None:
        return np.full(n, 1 / n)
    if reference.shape != (n,) or not np.isclose(reference.sum(), 1) or not (reference > 0).all():
        raise ValueError(f"a reference must be {n} positive probabilities that add up to 1, got {reference}")
    return reference


def best_response(payoff: Array, tau: float, reference: Array) -> Array:
    """(..., n) for payoffs (..., n); tau = 0 is the limit: the best answers alone, each with its reference's weight."""
    if tau == 0:
        best = np.isclose(payoff, payoff.max(axis=-1, keepdims=True), rtol=0, atol=1e-12) * reference
        return np.asarray(best / best.sum(axis=-1, keepdims=True))
    return _normalised(np.log(reference) + payoff / tau)


def best_value(payoff: Array, tau: float, reference: Array) -> Array:
    """(...): what the best response earns, its KL paid."""
    if tau == 0:
        return np.asarray(payoff.max(axis=-1))
    return np.asarray(tau * np.logaddexp.reduce(np.log(reference) + payoff / tau, axis=-1))


def mirror_step(policy: Array, payoff: Array, tau: float, reference: Array, rate: float | Array) -> Array:
    """(..., n); `rate` is one number, or one for each row with a last axis of 1."""
    return _normalised((_log(policy) + rate * (payoff + tau * np.log(reference))) / (1 + rate * tau))


def projected_step(policy: Array, payoff: Array, tau: float, reference: Array, rate: float | Array) -> Array:
    """(..., n), as `mirror_step`."""
    return _projected(policy + rate * (payoff - tau * log_ratio(policy, reference)))


def log_ratio(policy: Array, reference: Array) -> Array:
    return np.asarray(_log(policy) - np.log(reference))


def total_variation(first: Array, second: Array) -> float:
    """Of two policies, or the largest of two policies' rows."""
    return float(np.abs(first - second).sum(axis=-1).max() / 2)


def _log(policy: Array) -> Array:
    return np.asarray(np.log(np.maximum(policy, _TINY)))


def _normalised(scores: Array) -> Array:
    return np.asarray(np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)))


def _projected(points: Array) -> Array:
    """The nearest distributions above FLOOR: what is left of each entry when a threshold is taken off all."""
    n = points.shape[-1]
    above = points - FLOOR
    descending = np.flip(np.sort(above, axis=-1), axis=-1)
    thresholds = (descending.cumsum(axis=-1) - (1 - n * FLOOR)) / np.arange(1, n + 1)  # if k entries stay positive
    kept = (descending > thresholds).sum(axis=-1, keepdims=True)
    return np.asarray(np.maximum(above - np.take_along_axis(thresholds, kept - 1, axis=-1), 0) + FLOOR)
