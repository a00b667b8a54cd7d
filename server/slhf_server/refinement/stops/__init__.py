"""Stop rules: what a request may end its refinement by before its rounds are done. One rule, one file; see `RULES`.

A rule is asked after each finished round that another would follow: after the draft too. `no_gain` alone is asked after
the last round, too, because it says which text is the answer. docs/design.md says what else a new one needs.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from slhf.wire import StopWhen
from slhf_server.refinement.standing import StopRule
from slhf_server.refinement.stops.judge_sure import judge_sure
from slhf_server.refinement.stops.no_gain import no_gain
from slhf_server.refinement.stops.small_edit import small_edit
from slhf_server.refinement.stops.unchanged import unchanged


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where rules draw their lines."""

    edit_ratio: float | None = None
    """Of `small_edit`; None: it cannot be asked for."""
    sure: float | None = None
    """Of `judge_sure`; None: as above."""


RULES: Mapping[StopWhen, Callable[[Thresholds], StopRule | None]] = {
    "unchanged": lambda _: unchanged,
    "small_edit": lambda at: None if at.edit_ratio is None else small_edit(at.edit_ratio),
    "no_gain": lambda _: no_gain,
    "judge_sure": lambda at: None if at.sure is None else judge_sure(at.sure),
}
"""Each by its name, which is the reason that it gives and a value of the option `stop_when`."""


def rules_of(names: Iterable[StopWhen], at: Thresholds) -> tuple[StopRule, ...]:
    """The rules of these names, in the order of `RULES`, for which there are thresholds."""
    wanted = {*names}
    return tuple(made for name, make in RULES.items() if name in wanted and (made := make(at)) is not None)
