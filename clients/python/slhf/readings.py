"""What a Follower has read in a draft and in answers of its own: of each its result, and what these say of the draft.

A small model reads the result of an answer well, and counts badly what several of them say. So its thoughts are the
results alone, and a program counts: where enough more of its own answers give another result than give the draft's,
that one takes the draft's place. This is self-consistency (Wang et al., ICLR 2023). Training writes these thoughts and
serving reads them, so their form is said once, here.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Self

from slhf.numbers import last_number

STAYS = "It stays."
"""The thought of a Follower that sees no result to compare, or that knows without comparing."""
_DRAFT = "The draft: "
_NOTHING = "none"
_SENTENCES = re.compile(r"(?<=[.!?。])\s+|\n+")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3})")
_TAIL = 1_000
"""Characters in which a result is looked for."""
_FEW_WORDS = 12
"""So many may be a result as a whole: a name, a yes, one sentence."""
MARGIN = 2
"""How many more own answers have to speak for another result than for the draft's, where a bundle does not say: one
alone would break every right draft that the model itself gets wrong."""


@dataclass(frozen=True, slots=True)
class Readings:
    draft: str | None
    """The draft's result; None: it has none."""
    own: tuple[str | None, ...]
    """The results of the Follower's own answers, in the order in which they stand in its turn."""

    @classmethod
    def of(cls, draft: str | None, own: Sequence[str | None]) -> Self:
        """Results as they are compared: without case, line breaks and the full stop at their end."""
        return cls(_plain(draft), tuple(map(_plain, own)))

    @classmethod
    def parse(cls, thoughts: str) -> Self | None:
        """None where the thoughts are something else than a line for the draft and one for each answer, in order."""
        first, *lines = thoughts.strip("\n").split("\n")
        marks = [f"[{number}] " for number in range(1, len(lines) + 1)]
        if not first.startswith(_DRAFT) or not all(map(str.startswith, lines, marks)):
            return None
        results = [line.removeprefix(mark) for line, mark in zip(lines, marks, strict=True)]
        return cls.of(first.removeprefix(_DRAFT), results)

    @property
    def text(self) -> str:
        """The thoughts: `The draft: 6`, and below it `[1] 72` and so on."""
        numbered = (f"[{number}] {result or _NOTHING}" for number, result in enumerate(self.own, start=1))
        return "\n".join([f"{_DRAFT}{self.draft or _NOTHING}", *numbered])

    def heard(self, draft: str, own: Sequence[str]) -> Self | None:
        """These readings without rivals of the draft's result that do not stand in their answers: a Follower may read
        what nobody has said. None where the draft's does not stand in it, because then nothing is known of it."""
        if self.draft is not None and not _stands_in(self.draft, draft):
            return None
        results = zip(self.own, own, strict=True)
        return replace(self, own=tuple(one if one and self._is_heard(one, text) else None for one, text in results))

    def _is_heard(self, result: str, text: str) -> bool:
        return result == self.draft or _stands_in(result, text)

    @property
    def lead(self) -> int:
        """How many more own answers give the most frequent other result than give the draft's."""
        most = self._rivals.most_common(1)
        agreeing = 0 if self.draft is None else self.own.count(self.draft)
        return most[0][1] - agreeing if most else -agreeing

    def chosen(self, margin: int = MARGIN) -> int | None:
        """The place in `own` of the answer that takes the draft's place, from 0; None: the draft stays."""
        return self.own.index(self._rivals.most_common(1)[0][0]) if self.lead >= margin else None

    def is_open(self, margin: int) -> bool:
        """Whether another result leads, but not by enough: further own answers may tell."""
        return 0 < self.lead < margin

    def with_further(self, own: Sequence[str | None]) -> Self:
        """These readings and the results of further own answers."""
        return replace(self, own=(*self.own, *own))

    @property
    def _rivals(self) -> Counter[str]:
        """Of results alike in number the one that comes first is the first."""
        return Counter(result for result in self.own if result is not None and result != self.draft)


def has_readings(text: str) -> bool:
    """Whether an answer has the words of a Follower's readings in it, as a model that plays both roles may write them
    as the Leader. It answers nothing."""
    return _DRAFT in text or STAYS in text


def states_result(text: str) -> bool:
    """Whether a program sees a result that other answers can be compared with: a number in one of the last two
    sentences, behind which one of courtesy may stand, or no more than a dozen words. It may be none: this only tells
    texts with which there is something to compare from essays, letters and most programs."""
    end = _end(text)
    return any(map(str.isdecimal, end)) or _is_brief(text)


def result_of(text: str) -> Fraction | str | None:
    """What a text that `states_result` states: the last number at its end; without any, the words of a brief one."""
    number = last_number(_end(text))
    return number if number is not None or not _is_brief(text) else _plain(text)


def different_results(old: str, new: str) -> tuple[Fraction | str, Fraction | str] | None:
    """What two texts state; None: not two different results."""
    before, after = result_of(old), result_of(new)
    return None if before is None or after is None or before == after else (before, after)


def gives(text: str, result: Fraction | str) -> bool:
    """Whether an answer gives this result of another one: the same number at its end, or these words in it."""
    return result_of(text) == result if isinstance(result, Fraction) else _stands_in(result, text)


def better_by(own: Sequence[str], old: str, new: str) -> float | None:
    """How probably the new text is the better one, by answers that know neither: self-consistency as a judge.

    By the rule of succession: of n that give one of the two results, k the new text's, p = (k + 1) / (n + 2). None: the
    texts do not state two different results, or no answer gives either.
    """
    results = different_results(old, new)
    if results is None:
        return None
    given = [tuple(gives(answer, result) for result in results) for answer in own]
    for_old, for_new = given.count((True, False)), given.count((False, True))
    return (for_new + 1) / (for_new + for_old + 2) if for_new + for_old else None


def _end(text: str) -> str:
    """The last two sentences in which there is a word."""
    sentences = [one for one in _SENTENCES.split(text[-_TAIL:]) if any(map(str.isalnum, one))]
    return "\n".join(sentences[-2:])


def _is_brief(text: str) -> bool:
    return len(text) <= _TAIL and len(text.split()) <= _FEW_WORDS and any(map(str.isalnum, text))


def _stands_in(result: str, text: str) -> bool:
    """Whether a text has a result as words of its own. Case, spaces and the commas of thousands make no other one."""
    found = _THOUSANDS.sub("", " ".join(text.casefold().split()))
    return re.search(rf"(?<!\w){re.escape(_THOUSANDS.sub('', result))}(?!\w)", found) is not None


def _plain(result: str | None) -> str | None:
    plain = " ".join((result or "").casefold().split()).rstrip(".").rstrip()
    return None if plain in ("", _NOTHING) else plain
