"""What a section studies: its prompts, answers and judge, and the two things that are said of pairs of answers.

Judged pairs of texts: any preference source, each pair asked once, kept on disk batch by batch.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel
from tqdm import tqdm

from slhf_training.evaluation.answers import Answers, Chain, Slot
from slhf_training.evaluation.prompts import Prompt
from slhf_training.evaluation.statistics import Bootstrap, Estimate, edit, length_controlled, preferred
from slhf_training.preference import Cache, Preference, SourceSettings, revisions
from slhf_training.types import Chat, Probabilities, digest

SlotPair = tuple[Slot, Slot]
"""Two answers to one prompt."""


class Comparisons:
    """p(first beats second) of pairs of answers, NaN where one of them has no text or the source abstains.

    Equal texts tie without being asked. The other order of a pair is one minus the value, as every source promises.
    What the source abstains from is not kept: the next run asks again.
    """

    def __init__(self, source: Preference, name: str, cache: Cache, batch_size: int) -> None:
        """`name` tells sources apart in the cache: `source_name`."""
        self._source, self._name, self._cache, self._batch_size = source, name, cache, batch_size
        self._unjudged: set[str] = set()
        self.asked = 0
        """Pairs that the source was asked in this run."""

    @property
    def abstained(self) -> int:
        """Pairs on which the source had nothing to say."""
        return len(self._unjudged)

    def judge(self, pairs: Iterable[SlotPair], answers: Answers, prompts: Mapping[str, Prompt]) -> Probabilities:
        """(N,): p of all pairs. Raises JudgeError where the source fails too often; what was judged is kept."""
        questions = [self._question(pair, answers, prompts) for pair in pairs]
        p = np.array([math.nan if q is None else q.known(self._cache) for q in questions], dtype=np.float64)
        unknown = {q.key: q for q, found in zip(questions, p, strict=True) if q is not None and math.isnan(found)}
        self._ask([q for key, q in unknown.items() if key not in self._unjudged])
        for place, question in enumerate(questions):
            if question is not None and math.isnan(p[place]):
                p[place] = question.known(self._cache)
        return p

    def _ask(self, questions: Sequence["_Question"]) -> None:
        starts = range(0, len(questions), self._batch_size)
        for start in tqdm(starts, unit="batch", desc="judging", dynamic_ncols=True, disable=not questions):
            batch = questions[start : start + self._batch_size]
            p = self._source([q.chat for q in batch], [q.first for q in batch], [q.second for q in batch])
            self.asked += len(batch)
            self._cache.put_all({q.key: float(x) for q, x in zip(batch, p, strict=True) if not math.isnan(x)})
            self._unjudged |= {q.key for q, x in zip(batch, p, strict=True) if math.isnan(x)}

    def _question(self, pair: SlotPair, answers: Answers, prompts: Mapping[str, Prompt]) -> "_Question | None":
        first, second = answers.texts(pair)
        if first is None or second is None:
            return None
        return _Question(self._name, prompts[pair[0].prompt], first, second)


class _Question:
    """A pair in an order that does not depend on which one comes first."""

    def __init__(self, source: str, prompt: Prompt, first: str, second: str) -> None:
        self.chat: Chat = prompt.chat
        self.first, self.second = sorted((first, second))
        self._turned = self.first != first
        self.key = digest([source, prompt.id, self.first, self.second])

    def known(self, cache: Cache) -> float:
        """p(first beats second) in the pair's own order; NaN: not yet."""
        if self.first == self.second:
            return 0.5
        p = cache.get(self.key)
        return math.nan if p is None else 1 - p if self._turned else p


def source_name(settings: BaseModel) -> str:
    """A digest of a preference section: its settings, and the contents of the directories that it names."""
    return digest([settings.model_dump(mode="json"), sorted(revisions(settings.model_dump()))])


Figures = dict[str, Any]


@dataclass(frozen=True, slots=True)
class SectionData:
    prompts: Mapping[str, Prompt]
    """The section's prompts by id, in their order."""
    answers: Answers
    comparisons: Comparisons | None
    """The judge; None where there is none, and no section that is computed asks."""
    bootstrap: Bootstrap
    judge_of: Callable[[SourceSettings], Comparisons]
    """Any other judge, ready to be asked."""
    samples: Mapping[str, int] = field(default_factory=dict)
    """How many independent answers to `prompts` the Leaders have that were sampled."""

    def slots(self, chain: Chain, sample: int = 0) -> list[Slot]:
        """An answer of the chain to every prompt."""
        return [Slot(chain, prompt, sample) for prompt in self.prompts]

    def judged(self, pairs: Sequence[SlotPair]) -> Probabilities:
        assert self.comparisons is not None
        return self.comparisons.judge(pairs, self.answers, self.prompts)

    def duel(self, first: Chain, second: Chain) -> Figures:
        """How often the first's answers beat the second's, and how long both are."""
        return self.duel_of(list(zip(self.slots(first), self.slots(second), strict=True)))

    def duel_of(self, pairs: Sequence[SlotPair]) -> Figures:
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

    def changes(self, before: Chain, after: Chain) -> Figures:
        """What a refinement does to the texts, over prompts where both have one."""
        pairs = zip(self.slots(before), self.slots(after), strict=True)
        edits = [edit(*texts) for pair in pairs if None not in (texts := self.answers.texts(pair))]  # type: ignore[arg-type]
        figures = {"unchanged": "unchanged", "edit_ratio": "ratio", "language_switched": "switched"}
        return {
            name: row_of(self.bootstrap.mean(np.array([getattr(one, field) for one in edits], dtype=np.float64)))
            for name, field in figures.items()
        }

    def described(self, chain: Chain) -> Figures:
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

    def _texts(self, pair: SlotPair) -> tuple[str, str]:
        first, second = self.answers.texts(pair)
        assert first is not None
        assert second is not None
        return first, second


def row_of(estimate: Estimate | None) -> Figures | None:
    return None if estimate is None else estimate.row()


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
