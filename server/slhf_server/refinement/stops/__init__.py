"""Stop rules: what a request may end its refinement by before its rounds are done. One rule, one file; see `RULES`.

A rule is asked after each finished round that another would follow: after the draft too, but not after the last round.
docs/design.md says what else a new one needs.
"""

from collections.abc import Callable, Mapping, Sequence

from slhf.wire import RefineOptions, Round, StopReason
from slhf_server.refinement.stops.unchanged import unchanged

StopRule = Callable[[Sequence[Round]], StopReason | None]
"""Gets the finished rounds, the draft first, the latest last; returns a reason to stop, or None to go on.

The draft is there as the Follower saw it.
"""

RULES: Mapping[StopReason, StopRule] = {"unchanged": unchanged}
"""Each by the reason that it gives. A request asks for it by the option `stop_when_` with that reason."""


def asked_for(options: RefineOptions) -> tuple[StopRule, ...]:
    return tuple(rule for reason, rule in RULES.items() if getattr(options, f"stop_when_{reason}"))
