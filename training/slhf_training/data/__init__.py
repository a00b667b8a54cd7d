"""Data: JSONL files and data sets of the hub, whatever their columns are called, as examples of one schema.

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
    """What an answer got by attribute, on the data's own scale; more is more of the attribute."""

    answer: str
    values: Mapping[str, float]
    """The score of each attribute; empty where there is none. Raises ValueError for a value that is not finite."""

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
    """How a program says whether an answer is right; None: it cannot."""
    draft: str | None = None
    """An answer that is to be refined, right or wrong."""
    model: str = ""
    """The model that wrote the draft; empty where it is unknown."""

    @property
    def best(self) -> str:
        """The reference, or the pair's better answer; empty: neither is here."""
        return self.reference or (self.pair.chosen if self.pair else "")

    @property
    def answers(self) -> tuple[str, ...]:
        """Everything that is here as an answer to the chat, better or worse."""
        pair = (self.pair.chosen, self.pair.rejected) if self.pair else ()
        scored = (self.scores.answer,) if self.scores else ()
        drafted = () if self.draft is None else (self.draft,)
        return (*pair, *scored, *drafted)
