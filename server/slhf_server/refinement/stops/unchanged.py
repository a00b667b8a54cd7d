"""Stops when the Follower has returned its draft unchanged, because it finds nothing to improve.

A round that lost something has its draft's text too, but the Follower wrote another one: the next may do better.
"""

from collections.abc import Sequence

from slhf.wire import Round, StopReason


def unchanged(rounds: Sequence[Round]) -> StopReason | None:
    latest = rounds[-1]
    stays = latest.round > 0 and latest.lost is None and latest.text == rounds[-2].text
    return "unchanged" if stays else None
