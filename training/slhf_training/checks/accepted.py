"""One of the accepted answers stands, as whole words, in the last sentence, or at least ends there.

In the last sentence, so that an answer that mentions everything does not win by its length. Both are compared without
case, accents, articles and punctuation, as SQuAD's and NQ-open's exact match does.
"""

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import Field

from slhf_training.config_file import Section

_ARTICLES = frozenset(("a", "an", "the"))
_TITLES = "mr|mrs|ms|dr|prof|rev|hon|sen|rep|gov|gen|col|maj|lt|sgt|capt|jr|sr|esq"
_OTHERS = "st|sta|mt|ft|no|vol|fig|vs|feat|inc|ltd|co|corp|bros|ca|approx"
_END = re.compile(r"[.!?…]+[\"'”’)\]*_`]*\s+(?=[\"'“‘(\[*_`]*(?:[^\W\d_a-zß-ÿ]|\d))|\n+")  # before a capital or a digit
_UNENDED = re.compile(rf"(?:^|[^\w])(?:{_TITLES}|{_OTHERS}|\w|(?:\w\.)+\w)\.$", re.IGNORECASE)


class AcceptedSettings(Section):
    kind: Literal["accepted"]
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Each is right. One of articles and punctuation alone is never found."""


class Accepted:
    def __init__(self, settings: AcceptedSettings) -> None:
        self._right = [words for answer in settings.answers if (words := normalised(answer))]

    def passed(self, answer: str) -> bool:
        before = len(normalised(answer[: start_of_last_sentence(answer)]))
        said = f" {normalised(answer)} "
        ends = [place + len(words) for words in self._right if (place := said.rfind(f" {words} ")) >= 0]
        return any(end > before for end in ends)


def normalised(text: str) -> str:
    """Words parted by one space each."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    letters = re.sub(r"['’]s\b", " ", letters)
    letters = re.sub(r"['’]|(?<=\d),(?=\d{3}\b)|(?<=\b\w)\.(?=\w\b|\W|$)", "", letters)
    return " ".join(word for word in re.sub(r"[\W_]+", " ", letters).split() if word not in _ARTICLES)


def start_of_last_sentence(text: str) -> int:
    """A line is a sentence; an abbreviation's dot ends none, nor does what has no letter or digit."""
    starts = [0]
    for end in _END.finditer(text):
        if "\n" in end.group() or not _UNENDED.search(text[starts[-1] : end.end()].rstrip()):
            starts.append(end.end())
    return next((start for start in reversed(starts) if any(map(str.isalnum, text[start:]))), 0)
