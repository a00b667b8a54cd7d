"""The Condorcet example, solved by all three concepts: three annotator types whose majority is a cycle.

A user is drawn from the same population and knows their favourite only when they see it; how many answers does it take?
RLHF and NLHF can only be asked again; SLHF's Follower answers what it sees.
"""

from dataclasses import dataclass
from itertools import islice

import numpy as np

from slhf_training.tabular.games import (
    CONDORCET,
    Array,
    nlhf,
    of_annotators,
    pairs_drawn_from,
    random_cyclic,
    rlhf,
    total_variation,
)
from slhf_training.tabular.stackelberg import Equilibrium, Form, Policies, averages, equilibrium, stackelberg_gda


def by_samples(policy: Array, favourite: int, answers: int) -> Array:
    return np.asarray(1 - (1 - policy[favourite]) ** np.arange(1, answers + 1))


def by_refinement(leader: Array, follower: Array, favourite: int, answers: int) -> Array:
    missed = leader.copy()  # (n,): where the walk stands, unless it has met the favourite
    reached = np.empty(answers)
    for answer in range(answers):
        missed[favourite] = 0
        reached[answer] = 1 - missed.sum()
        missed = missed @ follower
    return reached


TAU = 1e-3  # so small that the policies are the unregularised ones but for a part in a thousand
ANSWERS = 5
SKEWED = np.array([0.6, 0.3, 0.1])  # what the answers of RLHF's pairs are drawn from, where not uniformly


@dataclass(frozen=True, slots=True)
class Solution:
    shares: Array  # (3,): of the users whose favourite is A, B, C
    preference: Array  # (3, 3)
    rlhf_uniform: Array  # (3,): from data that compares all pairs alike
    rlhf_skewed: Array  # (3,): from pairs drawn from SKEWED
    nlhf: Array  # (3,)
    slhf: Equilibrium
    reached: dict[str, Array]  # (ANSWERS,) each: probability that a user has seen their favourite


@dataclass(frozen=True, slots=True)
class Distance:
    """Total variation between StackelbergGDA and the closed form, the larger one of both roles."""

    form: Form
    kappa: float
    last: float
    averaged: float


def solved(shares: Array) -> Solution:
    preference = of_annotators(CONDORCET, shares)
    rlhf_uniform = rlhf(preference, pairs_drawn_from(np.full(3, 1 / 3)), TAU)
    rlhf_skewed = rlhf(preference, pairs_drawn_from(SKEWED), TAU)
    nash = nlhf(preference, TAU)
    slhf = equilibrium(preference, TAU, TAU)
    samples = {"rlhf_uniform": rlhf_uniform, "rlhf_skewed": rlhf_skewed, "nlhf": nash}
    reached = {name: over_users(policy, None, shares) for name, policy in samples.items()}
    reached["slhf"] = over_users(slhf.leader, slhf.follower, shares)
    return Solution(shares, preference, rlhf_uniform, rlhf_skewed, nash, slhf, reached)


def over_users(policy: Array, follower: Array | None, shares: Array) -> Array:
    """(ANSWERS,): the probability that a user drawn from the shares has seen their favourite."""
    of_each = [
        by_samples(policy, favourite, ANSWERS)
        if follower is None
        else by_refinement(policy, follower, favourite, ANSWERS)
        for favourite in CONDORCET[:, 0]
    ]
    return np.asarray(shares @ np.array(of_each))


def gda_distance(preference: Array, form: Form, kappa: float, steps: int = 3000, tau: float = 0.1) -> Distance:
    """After `steps` steps of eta 0.1 from the uniform policies."""
    iterates = list(islice(stackelberg_gda(preference, tau, tau, form=form, kappa=kappa), steps))
    *_, averaged = averages(iter(iterates))
    goal = equilibrium(preference, tau, tau)
    return Distance(form, kappa, distance(iterates[-1], goal), distance(averaged, goal))


def random_games_distance(games: int = 20, answers: int = 5) -> float:
    """The largest distance of the mirror form, kappa 5, over random cyclic games."""
    rng = np.random.default_rng(0)
    return max(gda_distance(random_cyclic(answers, rng), "mirror", 5).last for _ in range(games))


def distance(policies: Policies, goal: Equilibrium) -> float:
    return max(total_variation(policies.leader, goal.leader), total_variation(policies.follower, goal.follower))
