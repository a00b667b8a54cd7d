"""Games in tables: policies, preferences, and what RLHF and NLHF, with which SLHF is compared, make of them.

RLHF fits a Bradley-Terry reward and then one policy. With wins[y, y'] how often y beat y' in the data, r maximises

    sum_{y, y'} wins[y, y'] log sigmoid(r(y) - r(y'))        and        pi(y) ~ pi_ref(y) exp(r(y) / tau).

NLHF plays a symmetric game. Its policy is the one that is its own best response in

    max over pi, min over pi' of E_{y~pi, y'~pi'} P[y, y'] - tau KL(pi || pi_ref) + tau KL(pi' || pi_ref).

By symmetry both players move alike, so one sequence suffices. Plain ascent runs in circles where P is a cycle;
mirror-prox (extragradient) responds to the half step instead of the policy itself, and its last iterate converges.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

FLOOR = 1e-6  # the least probability after a projected step
_TINY = 1e-300  # logarithms take this for a probability that underflowed


def answers(preference: Array) -> int:
    """Return n of a preference matrix (n, n). Raises ValueError for any other array, also for one with NaN."""
    n = len(preference)
    if preference.shape != (n, n) or not ((preference >= 0) & (preference <= 1)).all():
        raise ValueError(f"preference must be a square matrix of probabilities, got shape {preference.shape}")
    return n


def checked_reference(reference: Array | None, n: int) -> Array:
    """Return the reference, (n,); uniform where there is none. Raises ValueError unless its support is full."""
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
    """(...): what the best response earns after its KL is paid."""
    if tau == 0:
        return np.asarray(payoff.max(axis=-1))
    return np.asarray(tau * np.logaddexp.reduce(np.log(reference) + payoff / tau, axis=-1))


def mirror_step(policy: Array, payoff: Array, tau: float, reference: Array, rate: float | Array) -> Array:
    """(..., n): the policy after a step that KL measures. `rate` is a number, or one for each row with last axis 1."""
    return _normalised((_log(policy) + rate * (payoff + tau * np.log(reference))) / (1 + rate * tau))


def projected_step(policy: Array, payoff: Array, tau: float, reference: Array, rate: float | Array) -> Array:
    """(..., n): the policy after a step along the gradient and a projection; `rate` is as of `mirror_step`."""
    return _projected(policy + rate * (payoff - tau * log_ratio(policy, reference)))


def log_ratio(policy: Array, reference: Array) -> Array:
    return np.asarray(_log(policy) - np.log(reference))


def total_variation(first: Array, second: Array) -> float:
    """Return the total variation between two policies, or the largest between their rows."""
    return float(np.abs(first - second).sum(axis=-1).max() / 2)


def _log(policy: Array) -> Array:
    return np.asarray(np.log(np.maximum(policy, _TINY)))


def _normalised(scores: Array) -> Array:
    return np.asarray(np.exp(scores - np.logaddexp.reduce(scores, axis=-1, keepdims=True)))


def _projected(points: Array) -> Array:
    """Return the nearest distributions above FLOOR: what is left of each entry when a threshold is taken off all."""
    n = points.shape[-1]
    above = points - FLOOR
    descending = np.flip(np.sort(above, axis=-1), axis=-1)
    thresholds = (descending.cumsum(axis=-1) - (1 - n * FLOOR)) / np.arange(1, n + 1)  # if k entries stay positive
    kept = (descending > thresholds).sum(axis=-1, keepdims=True)
    return np.asarray(np.maximum(above - np.take_along_axis(thresholds, kept - 1, axis=-1), 0) + FLOOR)


Flags = npt.NDArray[np.bool_]

CONDORCET = np.array([[0, 1, 2], [1, 2, 0], [2, 0, 1]])
"""Three annotator types who rank A > B > C, B > C > A and C > A > B: in equal shares their majority is a cycle."""


def of_annotators(rankings: npt.NDArray[np.int_], shares: Sequence[float] | Array) -> Array:
    """Return P of a population, (n, n). `rankings` (k, n) has each type's answers, the favourite first; `shares` (k,)
    add up to 1."""
    rank = np.argsort(rankings, axis=1)  # (k, n): the place of each answer
    prefers = (rank[:, :, None] < rank[:, None, :]) + np.eye(rankings.shape[1]) / 2  # (k, n, n)
    return np.asarray(np.tensordot(np.asarray(shares), prefers, axes=1))


def random_cyclic(n: int, rng: np.random.Generator) -> Array:
    """Return a random game on n >= 3 answers with a cycle through all of them, and so without a Condorcet winner."""
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
    """Return the answer that beats every other, if there is one."""
    beats = (preference > 0.5) | np.eye(len(preference), dtype=bool)
    winners = np.flatnonzero(beats.all(axis=1))
    return int(winners[0]) if len(winners) else None


def has_cycle(preference: Array) -> bool:
    """Return whether the majority has a cycle: y beats ... beats y."""
    return bool(np.diag(reachable(preference > 0.5)).any())


def cyclic_triples(preference: Array) -> float:
    """Return the share of the triples of answers that are a cycle: 0 for a consistent order; 1 only for n = 3."""
    n = len(preference)
    if n < 3:
        return 0.0
    beats = (preference > 0.5).astype(int)
    cycles = np.trace(beats @ beats @ beats) / 3  # each is found from each of its three answers
    return float(cycles / (n * (n - 1) * (n - 2) / 6))


def reachable(edges: Flags) -> Flags:
    """(n, n): whether a path of one edge or more leads from one answer to another (Warshall)."""
    paths = edges.copy()
    for via in range(len(edges)):
        paths |= paths[:, via, None] & paths[None, via]
    return paths


def pairs_drawn_from(policy: Array) -> Array:
    """(n, n): how often each pair is compared when both of its answers are drawn from `policy` (n,)."""
    pairs: Array = policy[:, None] * policy
    np.fill_diagonal(pairs, 0)
    return pairs


def bradley_terry(wins: Array, tolerance: float = 1e-12) -> Array:
    """(n,): the rewards of largest likelihood, with mean 0. `wins` (n, n): counts or frequencies.

    Raises ValueError where there are none, because an answer or a group never won or never lost against the rest.
    """
    n = len(wins)
    if not reachable(wins > 0).all():
        raise ValueError("no Bradley-Terry fit: some answers never won, or never lost, against the others")
    compared = wins + wins.T
    strength, change = np.full(n, 1 / n), np.inf
    while change > tolerance:  # Hunter's minorisation-maximisation: every step raises the likelihood
        fitted = wins.sum(axis=1) / (compared / (strength[:, None] + strength)).sum(axis=1)
        fitted /= fitted.sum()
        strength, change = fitted, float(np.abs(np.log(fitted / strength)).max())
    reward = np.log(strength)
    return np.asarray(reward - reward.mean())


def rlhf(preference: Array, pairs: Array, tau: float, reference: Array | None = None) -> Array:
    """(n,): RLHF's policy for data that compare each pair as often as `pairs` (n, n) says."""
    reference = checked_reference(reference, answers(preference))
    return best_response(bradley_terry(preference * pairs), tau, reference)


def nlhf(
    preference: Array, tau: float, reference: Array | None = None, eta: float = 1.0, tolerance: float = 1e-12
) -> Array:
    """(n,): the Nash policy; tau may be 0. Raises ArithmeticError if it has not settled after 200,000 steps."""
    reference = checked_reference(reference, answers(preference))
    policy = reference
    for _ in range(200_000):
        half = mirror_step(policy, preference @ policy, tau, reference, eta)
        following = mirror_step(policy, preference @ half, tau, reference, eta)
        moved = total_variation(following, policy)
        policy = following
        if moved < tolerance:
            return policy
    raise ArithmeticError(f"mirror-prox still moves by {moved} a step at tau = {tau}; a larger tau settles")
