"""The Stackelberg game on a finite set of answers: its solution in closed form, and StackelbergGDA.

Implements the regularised objective of SLHF (arXiv 2512.16626) for one prompt and n answers:

    max over pi, min over omega of
        f = E_{y~pi} [E_{y'~omega(.|y)} P[y, y'] + tau_F KL(omega(.|y) || omega_ref)] - tau_L KL(pi || pi_ref)

with P[y, y'] = p(y beats y'). For tau_L, tau_F > 0 and references with full support the solution is unique:

    omega*(y'|y) ~ omega_ref(y') exp(-P[y, y'] / tau_F)
    V(y)         = -tau_F log sum_y' omega_ref(y') exp(-P[y, y'] / tau_F)
    pi*(y)       ~ pi_ref(y) exp(V(y) / tau_L)

The closed form is what a trainer of the same game has to reach. Algorithm 1 (StackelbergGDA), two timescales:

    pi    <- Proj(pi + eta_L grad_pi f)            omega <- Proj(omega - eta_F grad_omega f)

    grad_pi f(y)       = E_{y'~omega(.|y)} P[y, y'] + tau_F KL(omega(.|y) || omega_ref) - tau_L log pi(y) / pi_ref(y)
    grad_omega f(y'|y) = pi(y) (P[y, y'] + tau_F log omega(y'|y) / omega_ref(y'))

with kappa = eta_F / eta_L. Departures: the references do not depend on the draft y; "projected" keeps every probability
above games.FLOOR; "mirror" (ours) measures steps by KL instead of the Euclidean distance, the Follower's row y with
the weight pi(y), so that pi(y) cancels and rows of answers the Leader no longer gives are learnt too.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from slhf_training.tabular.games import (
    Array,
    answers,
    best_response,
    best_value,
    checked_reference,
    log_ratio,
    mirror_step,
    projected_step,
)

Form = Literal["projected", "mirror"]


@dataclass(frozen=True, slots=True)
class Equilibrium:
    leader: Array  # (n,): pi*
    follower: Array  # (n, n): omega*, a row for each answer of the Leader
    value: Array  # (n,): V, what each answer is worth against the Follower's reply


class PolicyTables(NamedTuple):
    leader: Array  # (n,)
    follower: Array  # (n, n)


def equilibrium(
    preference: Array,  # (n, n): P[y, y'] in [0, 1]
    tau_leader: float,
    tau_follower: float,
    leader_reference: Array | None = None,  # (n,); None: uniform
    follower_reference: Array | None = None,  # (n,); None: uniform
) -> Equilibrium:
    """The unique Stackelberg equilibrium. Raises ValueError for what has no unique solution."""
    n = answers(preference)
    leader_reference = checked_reference(leader_reference, n)
    follower_reference = checked_reference(follower_reference, n)
    if tau_leader <= 0 or tau_follower <= 0:
        raise ValueError(f"tau_leader and tau_follower must be positive, got {tau_leader} and {tau_follower}")
    value = -best_value(-preference, tau_follower, follower_reference)
    return Equilibrium(
        leader=best_response(value, tau_leader, leader_reference),
        follower=best_response(-preference, tau_follower, follower_reference),
        value=value,
    )


def stackelberg_gda(
    preference: Array,  # (n, n)
    tau_leader: float,
    tau_follower: float,
    leader_reference: Array | None = None,  # (n,); None: uniform
    follower_reference: Array | None = None,  # (n,); None: uniform
    *,
    form: Form = "mirror",
    eta: float = 0.1,  # of the Leader
    kappa: float = 5.0,  # the Follower's rate is kappa * eta
    start: PolicyTables | None = None,  # None: the references
) -> Iterator[PolicyTables]:
    """The iterates of Algorithm 1, without end: take as many as you need. tau may be 0."""
    n = answers(preference)
    leader_reference = checked_reference(leader_reference, n)
    follower_reference = checked_reference(follower_reference, n)
    leader, follower = start or PolicyTables(leader_reference, np.tile(follower_reference, (n, 1)))
    step = mirror_step if form == "mirror" else projected_step
    while True:
        regularised = preference + tau_follower * log_ratio(follower, follower_reference)
        payoff = (follower * regularised).sum(axis=1)  # (n,): what the Leader's answers earn against this Follower
        weight = 1 if form == "mirror" else leader[:, None]
        leader, follower = (
            step(leader, payoff, tau_leader, leader_reference, eta),
            step(follower, -preference, tau_follower, follower_reference, kappa * eta * weight),
        )
        yield PolicyTables(leader, follower)


def averages(iterates: Iterator[PolicyTables]) -> Iterator[PolicyTables]:
    """The mean of the iterates so far (ergodic): it converges wherever f is concave-convex, if slowly."""
    leader, follower = next(iterates)
    yield PolicyTables(leader, follower)
    for seen, policies in enumerate(iterates, 2):
        leader = leader + (policies.leader - leader) / seen
        follower = follower + (policies.follower - follower) / seen
        yield PolicyTables(leader, follower)
