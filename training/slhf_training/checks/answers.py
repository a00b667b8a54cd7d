"""Checks of what an answer says: its last number, one of the accepted answers, an exact text, JSON of a schema."""

import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, field_validator

from slhf.json_text import read_json
from slhf.numbers import last_number, written
from slhf.programs import fenced_blocks
from slhf_training.config import Section
from slhf_training.errors import SettingsError

_ROUNDED = 4
"""A right number with this many decimals or more was rounded, so answers are rounded to as many before they count."""


class NumberSettings(Section):
    kind: Literal["number"]
    answer: Annotated[str, BeforeValidator(lambda given: str(given) if type(given) in (int, float) else given)]
    """The right number, given as text or as a number."""

    @field_validator("answer")
    @classmethod
    def _is_number(cls, answer: str) -> str:
        if last_number(answer) is None:
            raise ValueError(f"{answer!r} has no number")
        return answer


class Number:
    """An answer is right where its last number is the right one."""

    def __init__(self, settings: NumberSettings) -> None:
        self._right = last_number(settings.answer)
        decimals = len(settings.answer.partition(".")[2].rstrip())
        self._places = decimals if decimals >= _ROUNDED else None

    def passed(self, answer: str) -> bool:
        return self._rounded(answer) == self._right

    def read(self, answer: str) -> str | None:
        found = self._rounded(answer)
        return None if found is None else written(found)

    def _rounded(self, answer: str) -> Fraction | None:
        found = last_number(answer)
        return found if found is None or self._places is None else round(found, self._places)


_ARTICLES = frozenset(("a", "an", "the"))
_TITLES = "mr|mrs|ms|dr|prof|rev|hon|sen|rep|gov|gen|col|maj|lt|sgt|capt|jr|sr|esq"
_OTHERS = "st|sta|mt|ft|no|vol|fig|vs|feat|inc|ltd|co|corp|bros|ca|approx"
_END = re.compile(r"[.!?…]+[\"'”’)\]*_`]*\s+(?=[\"'“‘(\[*_`]*(?:[^\W\d_a-zß-ÿ]|\d))|\n+")  # before a capital or a digit
_UNENDED = re.compile(rf"(?:^|[^\w])(?:{_TITLES}|{_OTHERS}|\w|(?:\w\.)+\w)\.$", re.IGNORECASE)


class AcceptedSettings(Section):
    kind: Literal["accepted"]
    answers: tuple[Annotated[str, Field(min_length=1)], ...] = Field(min_length=1)
    """Each of these is right. One that is punctuation alone is never found in an answer."""


class Accepted:
    """An answer is right where its last sentence holds one of the accepted answers as whole words."""

    def __init__(self, settings: AcceptedSettings) -> None:
        right = [words for answer in settings.answers if (words := words_of(answer))]
        self._letters = [words for words in right if words[-1] in _ARTICLES]  # "vitamin A" keeps its A
        self._others = [without_articles(words) for words in right if words[-1] not in _ARTICLES]

    def passed(self, answer: str) -> bool:
        before, said = words_of(answer[: start_of_last_sentence(answer)]), words_of(answer)
        return _ends_behind(before, said, self._letters) or _ends_behind(
            without_articles(before), without_articles(said), self._others
        )

    def read(self, answer: str) -> str | None:
        """Return the words of the last sentence without articles; None where there are none."""
        return " ".join(without_articles(words_of(answer[start_of_last_sentence(answer) :]))) or None


def words_of(text: str) -> list[str]:
    """Return the text's words in lower case, without accents, punctuation and a possessive's ending."""
    letters = unicodedata.normalize("NFKD", text).casefold()
    letters = "".join(letter for letter in letters if not unicodedata.combining(letter))
    letters = re.sub(r"['’]s\b", " ", letters)
    letters = re.sub(r"['’]|(?<=\d),(?=\d{3}\b)|(?<=\b\w)\.(?=\w\b|\W|$)", "", letters)
    return re.sub(r"[\W_]+", " ", letters).split()


def without_articles(words: Sequence[str]) -> list[str]:
    return [word for word in words if word not in _ARTICLES]


def _ends_behind(before: Sequence[str], said: Sequence[str], right: Sequence[Sequence[str]]) -> bool:
    """Return whether a right answer stands in the words `said` and ends behind `before`, with which these begin."""
    ends = range(len(before) + 1, len(said) + 1)
    return any(said[end - len(words) : end] == words for words in right for end in ends if end >= len(words))


def start_of_last_sentence(text: str) -> int:
    """Return the index of the character with which the last sentence begins.

    The end of a line ends a sentence, and an abbreviation's dot does not. A part without letters and digits is none.
    """
    starts = [0]
    for end in _END.finditer(text):
        if "\n" in end.group() or not _UNENDED.search(text[starts[-1] : end.end()].rstrip()):
            starts.append(end.end())
    return next((start for start in reversed(starts) if any(map(str.isalnum, text[start:]))), 0)


_FENCE = re.compile(r"^\s*(```|~~~).*$", re.MULTILINE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_AROUND = " \t*_`\"'“”‘’$"


class ExactSettings(Section):
    kind: Literal["exact"]
    answer: str = Field(min_length=1)


class Exact:
    """An answer is right where it, or as many of its last lines, is the right text; quotes and markup do not count."""

    def __init__(self, settings: ExactSettings) -> None:
        self._right = _plain(settings.answer)

    def passed(self, answer: str) -> bool:
        lines = _lines(answer)
        return self._right in (_plain("\n".join(lines)), self._last(lines))

    def read(self, answer: str) -> str | None:
        return self._last(_lines(answer)) or None

    def _last(self, lines: Sequence[str]) -> str:
        return _plain("\n".join(lines[-self._right.count("\n") - 1 :]))


def _lines(answer: str) -> list[str]:
    return [line for line in _FENCE.sub("", answer).splitlines() if line.strip()]


def _plain(text: str) -> str:
    if (value := _json(text)) is not None:
        return json.dumps(value, ensure_ascii=False)
    return "\n".join(_plain_line(line) for line in text.splitlines() if line.strip())


def _plain_line(line: str) -> str:
    bare = _BOXED.sub(r"\1", line.replace("\N{MINUS SIGN}", "-")).strip(_AROUND)
    bare = bare.removesuffix(".").strip(_AROUND)
    return re.sub(r"\s*,\s*", ", ", re.sub(r"(?<=\d),(?=\d{3}\b)", "", bare))


def _json(text: str) -> Any:
    """Return the JSON list or object that the text is; None where it is neither."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list | dict) else None


class SchemaSettings(Section):
    model_config = ConfigDict(serialize_by_alias=True)
    kind: Literal["schema"]
    json_schema: Mapping[str, Any] = Field(alias="schema")


class Schema:
    """An answer is right where it, or its one fenced block, is JSON that the schema admits."""

    def __init__(self, settings: SchemaSettings) -> None:
        """Raises SettingsError for an invalid schema, and where the package that reads schemas is missing."""
        try:
            import jsonschema_rs
        except ModuleNotFoundError as exc:
            raise SettingsError("check: kind schema needs jsonschema-rs, which slhf-training[evaluate] brings") from exc
        try:
            self._schema = jsonschema_rs.validator_for(dict(settings.json_schema))
        except (ValueError, jsonschema_rs.ReferencingError) as exc:
            raise SettingsError(f"check.schema: {exc}") from exc

    def passed(self, answer: str) -> bool:
        blocks = fenced_blocks(answer)
        try:
            value = read_json(blocks[0] if len(blocks) == 1 else answer)
        except (ValueError, RecursionError):
            return False
        return bool(self._schema.is_valid(value))
