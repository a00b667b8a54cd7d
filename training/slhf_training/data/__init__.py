"""Data: JSONL files and data sets of the hub are read as examples of one schema, whatever their columns are called.

Imported by instructions, reward, preference, fit, evaluation, distill, imitation and lessons.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from slhf_training.checks.registry import CheckSettings
from slhf_training.types import Chat


@dataclass(frozen=True, slots=True)
class Pair:
    """Two answers to one chat, of which the first is preferred."""

    chosen: str
    rejected: str


@dataclass(frozen=True, slots=True)
class Scores:
    """The scores of an answer, on the data's own scale: a higher one means more of the attribute."""

    answer: str
    values: Mapping[str, float]
    """The score of each attribute; empty where there is none. One that is not finite is a ValueError."""

    def __post_init__(self) -> None:
        if odd := [name for name, value in self.values.items() if not math.isfinite(value)]:
            raise ValueError(f"{', '.join(odd)}: not a finite number")


@dataclass(frozen=True, slots=True)
class Example:
    chat: Chat
    """Ends with the user's turn."""
    pair: Pair | None = None
    scores: Scores | None = None
    reference: str = ""
    """An answer that is known to be good; empty where there is none."""
    id: str = ""
    source: str = ""
    check: CheckSettings | None = None
    """How a program says whether an answer is right; None where none can."""
    draft: str | None = None
    """An answer that is to be refined, right or wrong."""
    model: str = ""
    """The model that wrote the draft; empty where it is unknown."""

    @property
    def best(self) -> str:
        """The reference, else the pair's better answer; empty where the example has neither."""
        return self.reference or (self.pair.chosen if self.pair else "")

    @property
    def answers(self) -> tuple[str, ...]:
        """All answers to the chat that the example holds, good or bad, but the reference."""
        pair = (self.pair.chosen, self.pair.rejected) if self.pair else ()
        scored = (self.scores.answer,) if self.scores else ()
        drafted = () if self.draft is None else (self.draft,)
        return (*pair, *scored, *drafted)
