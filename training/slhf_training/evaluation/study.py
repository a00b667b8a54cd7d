"""What a section studies: its prompts, answers and judge, and the two things that are said of pairs of answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from slhf_training.evaluation.answers import Answers, Slot
from slhf_training.evaluation.chains import Chain
from slhf_training.evaluation.comparisons import Comparisons, Pair
from slhf_training.evaluation.edits import edit
from slhf_training.evaluation.prompts import Prompt
from slhf_training.evaluation.statistics import Bootstrap, Estimate, length_controlled, preferred
from slhf_training.types import Probabilities

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Study:
    prompts: Mapping[str, Prompt]
    """By id: those of the section, in their order."""
    answers: Answers
    comparisons: Comparisons | None
    """None: nobody judges, and no section that is computed asks."""
    bootstrap: Bootstrap
    samples: Mapping[str, int] = field(default_factory=dict)
    """How many independent answers to `prompts` the Leaders have that were sampled."""

    def slots(self, chain: Chain, sample: int = 0) -> list[Slot]:
        """An answer of the chain to every prompt."""
        return [Slot(chain, prompt, sample) for prompt in self.prompts]

    def judged(self, pairs: Sequence[Pair]) -> Probabilities:
        assert self.comparisons is not None
        return self.comparisons.judge(pairs, self.answers, self.prompts)

    def duel(self, first: Chain, second: Chain) -> Row:
        """How often the first's answers beat the second's, and how long both are."""
        return self.duel_of(list(zip(self.slots(first), self.slots(second), strict=True)))

    def duel_of(self, pairs: Sequence[Pair]) -> Row:
        """One pair for each prompt. `preference` is the mean p; `preferred` counts p > 1/2 as one and ties as half."""
        p = self.judged(pairs)
        judged = ~np.isnan(p)
        texts = [self._texts(pair) for pair, is_judged in zip(pairs, judged, strict=True) if is_judged]
        longer = np.array([len(one) - len(two) for one, two in texts], dtype=np.float64)
        return {
            "prompts": int(judged.sum()),
            "without_verdict": int((~judged).sum()),
            "preference": row_of(self.bootstrap.mean(p)),
            "preferred": row_of(self.bootstrap.mean(preferred(p))),
            "length_controlled": row_of(length_controlled(p[judged], longer, self.bootstrap)),
            "words": [_mean([len(text[side].split()) for text in texts]) for side in (0, 1)],
            "characters": [_mean([len(text[side]) for text in texts]) for side in (0, 1)],
        }

    def changes(self, before: Chain, after: Chain) -> Row:
        """What a refinement does to the texts, over prompts where both have one."""
        pairs = zip(self.slots(before), self.slots(after), strict=True)
        edits = [edit(*texts) for pair in pairs if None not in (texts := self.answers.texts(pair))]  # type: ignore[arg-type]
        figures = {"unchanged": "unchanged", "edit_ratio": "ratio", "language_switched": "switched"}
        return {
            name: row_of(self.bootstrap.mean(np.array([getattr(one, field) for one in edits], dtype=np.float64)))
            for name, field in figures.items()
        }

    def described(self, chain: Chain) -> Row:
        """Length of the answers, and how many did not come to their own end."""
        answers = [self.answers.get(slot) for slot in self.slots(chain)]
        texts = [answer.text for answer in answers if answer is not None and answer.text is not None]
        ends = [answer.finish for answer in answers if answer is not None]
        return {
            "answers": len(texts),
            "words": _mean([len(text.split()) for text in texts]),
            "characters": _mean([len(text) for text in texts]),
            "cut_at_the_limit": ends.count("length"),
            "kept_the_draft": ends.count("kept"),
            "refused": ends.count("refused"),
        }

    def _texts(self, pair: Pair) -> tuple[str, str]:
        first, second = self.answers.texts(pair)
        assert first is not None
        assert second is not None
        return first, second


def row_of(estimate: Estimate | None) -> Row | None:
    return None if estimate is None else estimate.row()


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
