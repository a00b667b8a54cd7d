"""Stop rules: asked after every finished round whether another one is worth it. One rule, one file."""

from collections.abc import Callable, Sequence

from slhf.wire import Round, StopReason

StopRule = Callable[[Sequence[Round]], StopReason | None]
"""Gets the finished rounds, the draft first, the latest last; returns a reason to stop, or None to go on."""
