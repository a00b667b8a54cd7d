"""What a word, a sentence, a bullet point is: a measure counts by one definition, a tuple holds all that people use.

A requirement of "at least 5" is met where every definition counts 5, and missed where none does.
"""

import re
from collections.abc import Callable

Measure = Callable[[str], int]

_ABBREVIATED = re.compile(
    r"\b(?:[A-Za-z]|mr|mrs|ms|dr|st|vs|etc|e\.g|i\.e|no|prof|jr|sr)\.(?=\s)|\b\d+\.(?=\s)", re.IGNORECASE
)
_STOPS = re.compile(r"(?<![.!?])[.!?]+[\"'”’)\]*_]*(?=\s|$)")
_WORD = re.compile(r"\w+")
_BLANK = re.compile(r"\n[ \t]*\n\s*")
_DIVIDER, _ANY_DIVIDER = re.compile(r"(?<!\*)\*{3}(?!\*)"), re.compile(r"\*{3,}|\* \* \*|^-{3,}$", re.MULTILINE)
_BULLET = re.compile(r"^(?:[*+•-])[ \t]+\S", re.MULTILINE)
_NESTED_BULLET = re.compile(r"^[ \t]*(?:[*+•–-]|\d{1,3}[.)])[ \t]*[^\s*-]", re.MULTILINE)
_ANY_BULLET = re.compile(r"^[ \t]*(?:[*+•–-]|\d{1,3}[.)])", re.MULTILINE)
_BRACKETED = re.compile(r"\[[^\[\]\n]{1,200}\]")
_SPAN = re.compile(r"\*{1,3}[^\s*][^*\n]{0,400}\*{1,3}")
_CAPITALS = re.compile(r"\b[A-Z][A-Z'’-]+\b")


def _pieces(divider: re.Pattern[str]) -> Measure:
    return lambda text: sum(bool(piece.strip()) for piece in divider.split(text))


def _found(pattern: re.Pattern[str]) -> Measure:
    return lambda text: sum(1 for _ in pattern.finditer(text))


def _lines(text: str) -> int:
    return sum(any(map(str.isalnum, line)) for line in text.splitlines())


def _sentences(text: str) -> int:
    """Full stops, question and exclamation marks at the end of a word, without those of abbreviations and numbers."""
    return sum(1 for _ in _STOPS.finditer(_ABBREVIATED.sub("", text.strip())))


def _at_most_sentences(text: str) -> int:
    """With them, and with a sentence for each line that has no such mark at its end."""
    unmarked = sum(not re.search(r"[.!?][\"'”’)\]*_]*$", line.rstrip()) for line in text.splitlines() if line.strip())
    return sum(1 for _ in _STOPS.finditer(text.strip())) + unmarked


WORDS: tuple[Measure, ...] = (lambda text: len(text.split()), _found(_WORD))
"""What stands between white space; letters and digits in a row, so that "it's" are two."""
SENTENCES: tuple[Measure, ...] = (_sentences, _at_most_sentences)
PARAGRAPHS: tuple[Measure, ...] = (_pieces(_BLANK), _lines)
"""Between blank lines; or lines, of which each has a letter or a digit."""
DIVIDED_PARAGRAPHS: tuple[Measure, ...] = (_pieces(_DIVIDER), _pieces(_ANY_DIVIDER))
BULLETS: tuple[Measure, ...] = (_found(_BULLET), _found(_NESTED_BULLET), _found(_ANY_BULLET))
"""With nothing before the bullet; nested and numbered ones too; whatever a line with a bullet says."""
PLACEHOLDERS: tuple[Measure, ...] = (_found(_BRACKETED),)
HIGHLIGHTS: tuple[Measure, ...] = (_found(_SPAN), lambda text: text.count("*") // 2)
CAPITAL_WORDS: tuple[Measure, ...] = (
    _found(_CAPITALS),
    lambda text: sum(word.isupper() for word in re.split(r"[^\w'’-]+", text)),
)
"""Of two capital letters or more; "I" and "A" too."""


def letters(letter: str) -> tuple[Measure, ...]:
    """How often a letter is there, large or small."""
    return (lambda text: text.casefold().count(letter.casefold()),)


def words(word: str) -> tuple[Measure, ...]:
    """How often a word is there by itself; as a part of others, too."""
    return (_found(whole_word(word)), lambda text: text.casefold().count(word.casefold()))


def whole_word(word: str) -> re.Pattern[str]:
    """A word with nothing before and behind it that belongs to one, large or small."""
    return re.compile(rf"(?<!\w){re.escape(word)}(?!\w)", re.IGNORECASE)


def sections(heading: str) -> tuple[Measure, ...]:
    """Numbered headings: each at the beginning of a line, or anywhere."""
    number = rf"{re.escape(heading)}[ \t]*"
    start = re.compile(rf"^\W{{0,5}}{number}\d", re.MULTILINE)
    return (_found(start), _found(re.compile(rf"{number}(?:\d|[IVX]+\b)", re.IGNORECASE)))
