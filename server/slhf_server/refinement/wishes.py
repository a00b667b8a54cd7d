"""What a request, its served model and its bundle say of judges and early ends, and what stands in the way of it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from slhf.bundle import Bundle
from slhf.wire import JUDGED, RefineOptions, Select, StopWhen
from slhf_server.models.base import Turn
from slhf_server.settings.server import ServedModel

_NO_JUDGE = "needs a judge, and this model has none"
_NO_THRESHOLD = "needs a threshold that was measured for the bundle (stop_rules in its manifest), and it has none"


@dataclass(frozen=True, slots=True)
class Wishes:
    """Which text is to be the answer, and what ends a refinement early."""

    select: Select
    stop_when: frozenset[StopWhen]

    @property
    def selects(self) -> bool:
        """Whether the judge chooses the answer. `no_gain` ends with the best text, so it does, too."""
        return self.select == "judge" or "no_gain" in self.stop_when

    @property
    def asks(self) -> bool:
        """Whether the judge is asked at all."""
        return self.selects or bool(JUDGED & self.stop_when)


def wishes(options: RefineOptions, served: ServedModel, manifest: Bundle) -> Wishes:
    """The request wins over the served model, which wins over the bundle. A bundle knows not where it is served, so
    without a judge its wishes for one are left aside."""
    stop_when = _asked(options)
    if stop_when is None:
        stop_when = served.stop_when
    if stop_when is None:
        stop_when = [name for name in manifest.stop_when or () if served.judge is not None or name not in JUDGED]
    by_bundle = manifest.select if served.judge is not None else None
    return Wishes(options.select or served.select or by_bundle or "last", frozenset(stop_when))


def _asked(options: RefineOptions) -> Iterable[StopWhen] | None:
    """What the request says; None: nothing."""
    if not options.stop_when_unchanged:
        return options.stop_when
    return ["unchanged", *(options.stop_when or ())]


def obstacle(wished: Wishes, served: ServedModel, manifest: Bundle) -> tuple[str, str] | None:
    """The option that cannot be followed, and why; None: all can."""
    if served.judge is None and wished.select == "judge":
        return "select", f"'judge' {_NO_JUDGE}"
    if served.judge is None and (rules := JUDGED & wished.stop_when):
        return "stop_when", f"{min(rules)!r} {_NO_JUDGE}"
    if "small_edit" in wished.stop_when and manifest.stop_rules.small_edit is None:
        return "stop_when", f"'small_edit' {_NO_THRESHOLD}"
    return None


def with_instruction(turns: tuple[Turn, ...], instruction: str | None) -> tuple[Turn, ...]:
    """The conversation as a judge is shown it: a wish for this request is a part of what was asked."""
    if not instruction:
        return turns
    return (*turns[:-1], replace(turns[-1], text=f"{turns[-1].text}\n\n{instruction}", token_ids=None))
