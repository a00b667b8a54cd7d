"""Stops when the Follower has changed little: what would come of a further round is not worth its tokens.

How little is measured for each bundle, whose manifest has the threshold.
"""

from typing import Literal

from slhf_server.refinement.standing import Standing, StopRule


def small_edit(most: float) -> StopRule:
    """`most`: the largest share of words, from 0 to 1, that counts as little."""

    def rule(standing: Standing) -> Literal["small_edit"] | None:
        latest = standing.latest
        small = latest.lost is None and latest.edit_ratio is not None and latest.edit_ratio <= most
        return "small_edit" if small else None

    return rule
