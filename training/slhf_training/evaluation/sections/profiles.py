"""Profiles: whether texts that were written under a profile's words follow these words better than others' do."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import permutations
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from slhf_training.config import Section
from slhf_training.evaluation.answers import Chain, ChainLabel, parsed
from slhf_training.evaluation.pages import estimate, heading, number, table
from slhf_training.evaluation.prompts import Prompt
from slhf_training.evaluation.sections import Measurement
from slhf_training.evaluation.statistics import length_controlled, preferred
from slhf_training.evaluation.study import Figures, SectionData, SlotPair, row_of
from slhf_training.types import Chat, Probabilities


class ProfileSettings(Section):
    words: str = Field(min_length=1)
    """The profile's instruction, which the judge is told as a part of the request."""
    answers: ChainLabel
    """Whose answers were written under it: a model that is a file of drafts, such as the output of
    `slhf refine --profile NAME`, or any chain."""


class ProfilesSectionSettings(Section):
    profiles: dict[str, ProfileSettings] = Field(min_length=2)


class Profiles(Measurement[ProfilesSectionSettings]):
    """Each profile's texts against each other's, to a judge who is asked for its words; and the same pairs under the
    other's words, because a text that is better whatever is asked for says nothing of a profile."""

    name: ClassVar[str] = "profiles"
    place: ClassVar[int] = 55
    settings: ClassVar[type[Section]] = ProfilesSectionSettings

    @classmethod
    def chains(cls, how: ProfilesSectionSettings) -> list[Chain]:
        return list(dict.fromkeys(parsed(profile.answers) for profile in how.profiles.values()))

    def figures(self, study: SectionData) -> Figures:
        pairs = [self._pair(study, one, other) for one, other in permutations(self.how.profiles, 2)]
        return {"profiles": {name: profile.words for name, profile in self.how.profiles.items()}, "pairs": pairs}

    def _pair(self, study: SectionData, one: str, other: str) -> Figures:
        """`follows`: how often `one`'s text is preferred under its own words. `shift`: how much more often than under
        the other's words, -1 to 1: 0 where words make no difference."""
        chains = [parsed(self.how.profiles[name].answers) for name in (one, other)]
        slots = list(zip(*map(study.slots, chains), strict=True))
        own, others = (self._under(study, name, slots) for name in (one, other))
        judged = ~np.isnan(own)
        texts = [study.answers.texts(pair) for pair, is_judged in zip(slots, judged, strict=True) if is_judged]
        longer = np.array([len(a or "") - len(b or "") for a, b in texts], dtype=np.float64)
        return {
            "profile": one,
            "against": other,
            "prompts": int(judged.sum()),
            "follows": row_of(study.bootstrap.mean(preferred(own))),
            "length_controlled": row_of(length_controlled(own[judged], longer, study.bootstrap)),
            "shift": row_of(study.bootstrap.mean(own - others)),
            "words": [_mean_words(side) for side in zip(*texts, strict=True)],
        }

    def _under(self, study: SectionData, name: str, pairs: list[SlotPair]) -> Probabilities:
        """(N,): p of the pairs, where the request ends with the profile's words."""
        assert study.comparisons is not None
        words = self.how.profiles[name].words
        asked = {key: Prompt(_with(prompt.chat, words), prompt.name) for key, prompt in study.prompts.items()}
        return study.comparisons.judge(pairs, study.answers, asked)

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        yield from heading(
            "Profiles",
            "*Follows*: how often the profile's text is preferred where the request ends with its words; 0.5 is no "
            "difference. *Shift*: how much more the judge prefers it there than where the request ends with the "
            "other's words; 0 where it would be preferred anyway.",
        )
        yield from table(["profile", "words"], figures["profiles"].items())
        yield ""
        columns = ["profile", "against", "prompts", "follows", "follows at equal length", "shift", "words of the texts"]
        yield from table(columns, map(_cells, figures["pairs"]))


def _with(chat: Chat, words: str) -> Chat:
    """The conversation, at whose end the words stand on a line of their own, as in the Follower's turn."""
    *before, last = chat
    return [*before, {**last, "content": f"{last['content']}\n{words}"}]


def _mean_words(texts: Sequence[str | None]) -> float:
    return float(np.mean([len((text or "").split()) for text in texts]))


def _cells(pair: Mapping[str, Any]) -> list[Any]:
    figures = [estimate(pair[key]) for key in ("follows", "length_controlled", "shift")]
    return [pair["profile"], pair["against"], pair["prompts"], *figures, " / ".join(map(number, pair["words"]))]
