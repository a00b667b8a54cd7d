"""Among several answers of one Leader to one prompt: preference cycles and Condorcet winners."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from pydantic import Field

from slhf_training.config import Section
from slhf_training.evaluation.answers import Chain, Slot
from slhf_training.evaluation.pages import estimate, heading, table
from slhf_training.evaluation.sections import Measurement
from slhf_training.evaluation.statistics import Numbers
from slhf_training.evaluation.study import Figures, SectionData, row_of


@dataclass(frozen=True, slots=True)
class Tournament:
    answers: int
    """Different ones: the same text twice is one answer, or it would tie with itself."""
    cycle: bool
    """Some answers beat one another round and round."""
    condorcet_winner: bool
    """One answer beats every other."""
    unbeaten: bool
    """One answer is beaten by none: what is left of a Condorcet winner where there are ties."""


def tournament(p: Numbers) -> Tournament:
    """What (N, N) preferences among different answers come to; the diagonal is not read."""
    beats = (p > 0.5) & ~np.eye(len(p), dtype=bool)
    return Tournament(
        answers=len(p),
        cycle=has_cycle(beats),
        condorcet_winner=bool((beats.sum(axis=1) == len(p) - 1).any()),
        unbeaten=bool((~beats.any(axis=0)).any()),
    )


def has_cycle(beats: npt.NDArray[np.bool_]) -> bool:
    """Whether the graph has a directed cycle.

    Answers that beat no other one left are taken away until none is left, or none can go, which means a cycle. Without
    ties there is then a cycle of three; with ties the shortest may be longer.
    """
    left = np.ones(len(beats), dtype=bool)
    while left.any():
        last = left & ~(beats & left).any(axis=1)
        if not last.any():
            return True
        left &= ~last
    return False


class CyclesSettings(Section):
    models: tuple[str, ...] = Field(min_length=1)
    """Whose Leader is sampled."""
    samples: int = Field(default=20, gt=1)


class Cycles(Measurement[CyclesSettings]):
    name: ClassVar[str] = "cycles"
    place: ClassVar[int] = 50
    settings: ClassVar[type[Section]] = CyclesSettings

    @classmethod
    def chains(cls, how: CyclesSettings) -> list[Chain]:
        return [(name,) for name in how.models]

    @classmethod
    def sampled(cls, how: CyclesSettings) -> Mapping[str, int]:
        return dict.fromkeys(how.models, how.samples)

    def figures(self, study: SectionData) -> Figures:
        return {name: _of_model(study, name, self.how.samples) for name in self.how.models}

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        yield from heading(
            "Cycles",
            "Of several answers of one Leader to one prompt: the share of prompts where some beat one another in a "
            "circle, where none beats all others, and where each is beaten by some other.",
        )
        columns = ("with_cycle", "without_condorcet_winner", "without_unbeaten", "different_answers")
        titles = ("cycle", "no Condorcet winner", "none unbeaten", "different answers")
        yield from table(
            ["model", "samples", *titles, "without verdict"],
            (
                [name, row["samples"], *(estimate(row[key]) for key in columns), row["without_verdict"]]
                for name, row in figures.items()
            ),
        )


def _of_model(study: SectionData, name: str, samples: int) -> Figures:
    groups = [
        _different(study, [Slot((name,), prompt, number) for number in range(samples)]) for prompt in study.prompts
    ]
    pairs = [pair for group in groups for pair in combinations(group, 2)]
    verdicts = iter(study.judged(pairs))
    matrices = [_matrix([next(verdicts) for _ in combinations(group, 2)], len(group)) for group in groups]
    whole = [tournament(p) for p in matrices if len(p) and not np.isnan(p).any()]
    figures = {
        "with_cycle": [one.cycle for one in whole],
        "without_condorcet_winner": [not one.condorcet_winner for one in whole],
        "without_unbeaten": [not one.unbeaten for one in whole],
        "different_answers": [one.answers for one in whole],
    }
    shares = {what: study.bootstrap.mean(np.array(values, dtype=np.float64)) for what, values in figures.items()}
    return {
        "samples": samples,
        "without_verdict": len(matrices) - len(whole),
        **{what: row_of(estimate) for what, estimate in shares.items()},
    }


def _different(study: SectionData, slots: Sequence[Slot]) -> list[Slot]:
    """The same text twice counts once; a slot without text does not count."""
    first = {text: slot for slot, text in reversed(list(zip(slots, study.answers.texts(slots), strict=True)))}
    return [slot for text, slot in reversed(first.items()) if text is not None]


def _matrix(upper: Sequence[float], n: int) -> Numbers:
    """(N, N) preferences from those above the diagonal, row by row."""
    p = np.full((n, n), 0.5)
    p[np.triu_indices(n, 1)] = upper
    below = np.tril_indices(n, -1)
    p[below] = 1 - p.T[below]
    return p
