"""One of the accepted answers stands, as whole words, in the last sentence.

In the last sentence alone, so that an answer that mentions everything does not win by its length. Both are compared
without case, accents, articles and punctuation (as SQuAD's and NQ-open's exact match does, here after NFKC).
"""

import re
import unicodedata
from typing import Annotated, Literal

from pydantic import Field

from slhf_training.config_file import Section

_ARTICLES = frozenset(("a", "an", "the"))
_ABBREVIATIONS = "mr|mrs|ms|dr|prof|rev|hon|gen|col|lt|sgt|capt|jr|sr|st|mt|ft|no|vol|fig|vs|inc|ltd|co|corp|ca|approx"
_END = re.compile(r"[.!?…]+[\"'”’)\]*_`]*(?:\s+|$)|\n+")
_UNENDED = re.compile(rf"(?:^|[^\w])(?:{_ABBREVIATIONS}|\w|(?:\w\.)+\w)\.$", re.IGNORECASE)


class AcceptedSettings(Section):
    kind: Literal["accepted"]
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Each is right."""


class Accepted:
    def __init__(self, settings: AcceptedSettings) -> None:
        self._right = [words for answer in settings.answers if (words := normalised(answer))]

    def passed(self, answer: str) -> bool:
        said = f" {normalised(last_sentence(answer))} "
        return any(f" {words} " in said for words in self._right)


def normalised(text: str) -> str:
    """Words parted by one space each."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    letters = re.sub(r"['’]s\b", " ", letters)
    letters = re.sub(r"['’]|(?<=\d),(?=\d{3}\b)|(?<=\b\w)\.(?=\w\b|\W|$)", "", letters)
    words = re.sub(r"[\W_]+", " ", letters).split()
    return " ".join([word for word in words if word not in _ARTICLES] or words)


def last_sentence(text: str) -> str:
    """Empty where no sentence has a letter or a digit. A line is a sentence; an abbreviation's dot ends none."""
    sentences, start = [], 0
    for end in _END.finditer(text):
        if "\n" in end.group() or not _UNENDED.search(text[start : end.end()].rstrip()):
            sentences.append(text[start : end.end()])
            start = end.end()
    said = [sentence for sentence in (*sentences, text[start:]) if any(map(str.isalnum, sentence))]
    return said[-1].strip() if said else ""
