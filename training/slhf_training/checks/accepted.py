"""One of the accepted answers stands, as whole words, in the last sentence, or at least ends there.

In the last sentence, so that an answer that mentions everything does not win by its length. Both are compared without
case, accents, articles and punctuation, as SQuAD's and NQ-open's exact match does.
"""

import re
import unicodedata
from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field

from slhf_training.config import Section

_ARTICLES = frozenset(("a", "an", "the"))
_TITLES = "mr|mrs|ms|dr|prof|rev|hon|sen|rep|gov|gen|col|maj|lt|sgt|capt|jr|sr|esq"
_OTHERS = "st|sta|mt|ft|no|vol|fig|vs|feat|inc|ltd|co|corp|bros|ca|approx"
_END = re.compile(r"[.!?…]+[\"'”’)\]*_`]*\s+(?=[\"'“‘(\[*_`]*(?:[^\W\d_a-zß-ÿ]|\d))|\n+")  # before a capital or a digit
_UNENDED = re.compile(rf"(?:^|[^\w])(?:{_TITLES}|{_OTHERS}|\w|(?:\w\.)+\w)\.$", re.IGNORECASE)


class AcceptedSettings(Section):
    kind: Literal["accepted"]
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Each is right. One of punctuation alone is never found."""


class Accepted:
    def __init__(self, settings: AcceptedSettings) -> None:
        right = [words for answer in settings.answers if (words := words_of(answer))]
        self._letters = [words for words in right if words[-1] in _ARTICLES]  # vitamin A
        self._others = [without_articles(words) for words in right if words[-1] not in _ARTICLES]

    def passed(self, answer: str) -> bool:
        before, said = words_of(answer[: start_of_last_sentence(answer)]), words_of(answer)
        return _ends_behind(before, said, self._letters) or _ends_behind(
            without_articles(before), without_articles(said), self._others
        )

    def read(self, answer: str) -> str | None:
        """The words of the last sentence."""
        return " ".join(without_articles(words_of(answer[start_of_last_sentence(answer) :]))) or None


def words_of(text: str) -> list[str]:
    letters = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    letters = re.sub(r"['’]s\b", " ", letters)
    letters = re.sub(r"['’]|(?<=\d),(?=\d{3}\b)|(?<=\b\w)\.(?=\w\b|\W|$)", "", letters)
    return re.sub(r"[\W_]+", " ", letters).split()


def without_articles(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def _ends_behind(before: Sequence[str], said: Sequence[str], right: Sequence[Sequence[str]]) -> bool:
    """Whether one of them is a part of what was said that ends behind what was said before."""
    ends = range(len(before) + 1, len(said) + 1)
    return any(said[end - len(words) : end] == words for words in right for end in ends if end >= len(words))


def start_of_last_sentence(text: str) -> int:
    """A line is a sentence; an abbreviation's dot ends none, nor does what has no letter or digit."""
    starts = [0]
    for end in _END.finditer(text):
        if "\n" in end.group() or not _UNENDED.search(text[starts[-1] : end.end()].rstrip()):
            starts.append(end.end())
    return next((start for start in reversed(starts) if any(map(str.isalnum, text[start:]))), 0)
