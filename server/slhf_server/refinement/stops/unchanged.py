"""Stops when the Follower has returned its draft unchanged, because it finds nothing to improve.

A round that lost something has its draft's text too, but the Follower wrote another one: the next may do better.
"""

from typing import Literal

from slhf_server.refinement.standing import Standing


def unchanged(standing: Standing) -> Literal["unchanged"] | None:
    latest = standing.latest
    stays = latest.round > 0 and latest.lost is None and latest.text == standing.rounds[-2].text
    return "unchanged" if stays else None
