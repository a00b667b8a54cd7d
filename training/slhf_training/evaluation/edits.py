"""What a refinement does to a text: how much of it changes, whether its language does, whether it goes in circles."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from rapidfuzz.distance import Indel

_LETTERS = 20
"""Fewer letters than this are in no language that could be told."""
_SAMPLE = 2000
_LOOP_WORDS, _LOOP_TIMES, _LOOP_LENGTH = 64, 3, 24
_WORDS = {
    "en": "the of and to in is that for it with as on are this be you not have from by",
    "de": "der die und das ist nicht ein eine zu den mit von für auf sich auch dem es im werden",
    "fr": "le la les et des est une un dans pour que qui sur pas plus ce avec sont vous au",
    "es": "el la los las y de que en un una es por con para se no del como más su",
    "pt": "o a os as e de que em um uma é por com para não se do da como mais",
    "it": "il la i le e di che un una è per con non si del della sono come più anche",
    "nl": "de het een en van is dat niet op te zijn voor met die aan ook als er maar je",
}
_FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _WORDS.items()}


@dataclass(frozen=True, slots=True)
class Edit:
    unchanged: bool
    """To the letter, white space at the ends aside."""
    ratio: float
    """Words inserted or deleted, as a share of both texts' words: 0 the same, 1 nothing kept. The server's too."""
    switched: bool
    """Both languages can be told, and they differ."""


def edit(before: str, after: str) -> Edit:
    languages = language(before), language(after)
    return Edit(
        unchanged=before.strip() == after.strip(),
        ratio=Indel.normalized_distance(before.split(), after.split()),
        switched=None not in languages and languages[0] != languages[1],
    )


def loops(text: str) -> bool:
    """Whether some run of up to 64 words stands at least three times in a row, in 24 words or more.

    Words are compared to the letter, so a list whose numbers count up is none.
    """
    words = text.split()
    ids = {word: number for number, word in enumerate(dict.fromkeys(words))}
    numbers = np.array([ids[word] for word in words])
    longest = min(_LOOP_WORDS, len(words) // _LOOP_TIMES)
    return any(
        _longest_run(numbers[period:] == numbers[:-period]) >= max((_LOOP_TIMES - 1) * period, _LOOP_LENGTH - period)
        for period in range(1, longest + 1)
    )


def _longest_run(flags: npt.NDArray[np.bool_]) -> int:
    """Of true ones in a row: the widest gap between two false ones."""
    edges = np.flatnonzero(np.concatenate([[True], ~flags, [True]]))
    return int(np.diff(edges).max()) - 1


def language(text: str) -> str | None:
    """A guess: another script than Latin names itself (CYRILLIC, HAN, ...); among seven languages in Latin letters, the
    one whose commonest words are there most. None where there are too few letters or two languages are as likely.
    """
    letters = [letter for letter in text[:_SAMPLE] if letter.isalpha()]
    if len(letters) < _LETTERS:
        return None
    (script, count), *_ = Counter(map(_script, letters)).most_common(1)
    if script != "LATIN":
        return script if count * 2 > len(letters) else None
    words = re.findall(r"[^\W\d_]+", text[:_SAMPLE].lower())
    found = Counter({name: sum(word in common for word in words) for name, common in _FUNCTION_WORDS.items()})
    (best, most), (_, second) = found.most_common(2)
    return best if most >= 3 and most > second * 1.5 else None


def _script(letter: str) -> str:
    """Of CJK ideographs and kana alike: HAN; Chinese and Japanese are not told apart."""
    name = unicodedata.name(letter, "UNKNOWN").partition(" ")[0].partition("-")[0]
    return "HAN" if name in ("CJK", "HIRAGANA", "KATAKANA") else name
