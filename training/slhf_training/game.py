"""The Stackelberg game on a finite set of answers, solved in closed form.

Implements the regularised objective of SLHF (arXiv 2512.16626) for one prompt and n answers:

    max over pi, min over omega of
        E_{y~pi, y'~omega(.|y)} [P[y, y']] + tau_F E_{y~pi} KL(omega(.|y) || omega_ref) - tau_L KL(pi || pi_ref)

with P[y, y'] = p(y beats y'). For tau_L, tau_F > 0 and references with full support the solution is unique:

    omega*(y'|y) ~ omega_ref(y') exp(-P[y, y'] / tau_F)
    V(y)         = -tau_F log sum_y' omega_ref(y') exp(-P[y, y'] / tau_F)
    pi*(y)       ~ pi_ref(y) exp(V(y) / tau_L)

The closed form is what a trainer of the same game has to reach.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Equilibrium:
    leader: Array  # (n,): pi*
    follower: Array  # (n, n): omega*, a row for each answer of the Leader
    value: Array  # (n,): V, what each answer is worth against the Follower's reply


def equilibrium(
    preference: Array,  # (n, n): P[y, y'] in [0, 1]
    tau_leader: float,
    tau_follower: float,
    leader_reference: Array | None = None,  # (n,); None: uniform
    follower_reference: Array | None = None,  # (n,); None: uniform
) -> Equilibrium:
    """The unique Stackelberg equilibrium. Raises ValueError for what has no unique solution."""
    n = len(preference)
    leader_reference = _reference(leader_reference, n)
    follower_reference = _reference(follower_reference, n)
    if preference.shape != (n, n) or not ((preference >= 0) & (preference <= 1)).all():
        raise ValueError(f"preference must be a square matrix of probabilities, got shape {preference.shape}")
    if tau_leader <= 0 or tau_follower <= 0:
        raise ValueError(f"tau_leader and tau_follower must be positive, got {tau_leader} and {tau_follower}")
    scores = np.log(follower_reference) - preference / tau_follower  # (n, n)
    log_norm = np.logaddexp.reduce(scores, axis=1)  # (n,)
    value = -tau_follower * log_norm
    leader_scores = np.log(leader_reference) + value / tau_leader
    return Equilibrium(
        leader=np.exp(leader_scores - np.logaddexp.reduce(leader_scores)),
        follower=np.exp(scores - log_norm[:, None]),
        value=value,
    )


def _reference(reference: Array | None, n: int) -> Array:
    if reference is None:
        return np.full(n, 1 / n)
    if reference.shape != (n,) or not np.isclose(reference.sum(), 1) or not (reference > 0).all():
        raise ValueError(f"a reference must be {n} positive probabilities that add up to 1, got {reference}")
    return reference
