"""The probability that a user sees the answer that is their favourite within N answers: (N,), for 1, 2, ..., N.

One policy (RLHF, NLHF) is sampled N times; a Leader's answer is refined N - 1 times, each time from the latest one.
"""

import numpy as np

from slhf_training.tabular.policies import Array


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
