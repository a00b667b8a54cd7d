"""Stop rules, which are asked after every finished round whether another one is worth it. Each rule has a file."""

from collections.abc import Callable, Sequence

from slhf.wire import Round, StopReason

StopRule = Callable[[Sequence[Round]], StopReason | None]
"""A rule gets the finished rounds, the draft first, the latest last. It returns a reason to stop, or None to go on."""
