"""Judged pairs of texts: any preference source, each pair asked once, kept on disk batch by batch."""

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from pydantic import BaseModel
from tqdm import tqdm

from slhf_training.evaluation.answers import Answers, Slot
from slhf_training.evaluation.prompts import Prompt
from slhf_training.preference import Preference
from slhf_training.preference.cache import Cache, revisions
from slhf_training.types import Chat, Probabilities, digest

Pair = tuple[Slot, Slot]
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

    def judge(self, pairs: Iterable[Pair], answers: Answers, prompts: Mapping[str, Prompt]) -> Probabilities:
        """(N,) of all pairs. Raises JudgeError where the source fails too often; what was judged is kept."""
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

    def _question(self, pair: Pair, answers: Answers, prompts: Mapping[str, Prompt]) -> "_Question | None":
        first, second = answers.texts(pair)
        if first is None or second is None:
            return None
        return _Question(self._name, prompts[pair[0].prompt], first, second)


class _Question:
    """In one order, whatever the pair's."""

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
    """Of a preference section: its settings, and the contents of the directories that it names."""
    return digest([settings.model_dump(mode="json"), sorted(revisions(settings.model_dump()))])
