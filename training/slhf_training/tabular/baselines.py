"""What SLHF is compared with, in tables: RLHF (a Bradley-Terry reward, then one policy) and NLHF (a symmetric game).

RLHF: with wins[y, y'] how often y beat y' in the data, the rewards maximise

    sum_{y, y'} wins[y, y'] log sigmoid(r(y) - r(y'))        and        pi(y) ~ pi_ref(y) exp(r(y) / tau).

NLHF: the one policy that is its own best response in

    max over pi, min over pi' of E_{y~pi, y'~pi'} P[y, y'] - tau KL(pi || pi_ref) + tau KL(pi' || pi_ref).

By symmetry both players move alike, so one sequence suffices. Plain ascent runs in circles where P is a cycle;
mirror-prox (extragradient) answers the half step instead of the policy itself, and its last iterate converges.
"""

import numpy as np

from slhf_training.tabular.policies import (
    Array,
    answers,
    best_response,
    checked_reference,
    mirror_step,
    total_variation,
)
from slhf_training.tabular.preferences import reachable


def pairs_drawn_from(policy: Array) -> Array:
    """(n, n): how often each pair is compared when both of its answers are drawn from `policy` (n,)."""
    pairs: Array = policy[:, None] * policy
    np.fill_diagonal(pairs, 0)
    return pairs


def bradley_terry(wins: Array, tolerance: float = 1e-12) -> Array:
    """(n,): the rewards of largest likelihood, with mean 0. `wins` (n, n): counts or frequencies.

    Raises ValueError where there are none: an answer, or a group, that never won or never lost against the rest.
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
    """(n,): the policy that data in which `pairs` (n, n) says how often each pair is compared leads to."""
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
