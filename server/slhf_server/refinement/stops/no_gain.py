"""Stops when a round does not win against the best text before it, which then is the answer: the draft, it may be.

A judge that has failed has not said that: the next round may do better.
"""

from typing import Literal

from slhf_server.refinement.standing import Standing


def no_gain(standing: Standing) -> Literal["no_gain"] | None:
    return "no_gain" if standing.judged and standing.best != standing.latest.round else None
