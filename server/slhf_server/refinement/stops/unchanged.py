"""Stops when the Follower has returned its draft unchanged, because it finds nothing to improve."""

from collections.abc import Sequence

from slhf.wire import Round, StopReason


def unchanged(rounds: Sequence[Round]) -> StopReason | None:
    latest = rounds[-1]
    return "unchanged" if latest.round > 0 and latest.text == rounds[-2].text else None
