"""How a refinement stands after a finished round: what stop rules look at."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slhf.wire import Round, StopWhen


@dataclass(frozen=True, slots=True)
class Standing:
    rounds: Sequence[Round]
    """The finished rounds, the draft first, as the Follower saw it; the latest last."""
    best: int
    """Which of them is the answer, if none follows."""
    judged: bool = False
    """Whether it is known how the latest compares with the best before it."""
    p: float | None = None
    """How probably the latest is better, by the judge; None: it abstains, or was not asked."""

    @property
    def latest(self) -> Round:
        return self.rounds[-1]


StopRule = Callable[[Standing], StopWhen | None]
"""Returns its name, to stop, or None, to go on."""
