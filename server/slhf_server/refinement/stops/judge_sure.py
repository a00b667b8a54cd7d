"""Stops when the judge is sure that the latest round is better than the best text before it: it is good enough."""

from typing import Literal

from slhf_server.refinement.standing import Standing, StopRule


def judge_sure(least: float) -> StopRule:
    """`least`: the smallest probability, from .5 to 1, that counts as sure."""

    def rule(standing: Standing) -> Literal["judge_sure"] | None:
        return "judge_sure" if standing.p is not None and standing.p >= least else None

    return rule
