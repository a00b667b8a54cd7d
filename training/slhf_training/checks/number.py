"""The last number of an answer is the right one.

`3.0` is 3, `1,234` is 1234, `1/2` and `\\frac{1}{2}` are 0.5, and `25%` is 25. Currency signs, units and markup around
a number do not count. A digit that belongs to a name or an exponent (CO2, m^2, x_1) is no number of its own. An answer
with four decimals or more is one that was rounded: what rounds to it is right.
"""

import re
import unicodedata
from fractions import Fraction
from typing import Annotated, Literal

from pydantic import BeforeValidator, field_validator

from slhf_training.config import Section

_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})
_GROUPS = re.compile(r"(?<=\d)(?:\{,\}|\\[,!; ]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_DIGITS = 1000
"""More are no answer, and a long way to read."""
_ROUNDED = 4
"""So many decimals and more are those of a number that was rounded."""
_NUMBER = re.compile(
    r"""(?<![^\W_])(?<![^\W_][_^])(?<!\^\{)(?<!\d[.,])  # neither a part of a name nor an exponent
        (?:(?<![^\W_])(?<![)\]}])(-))?                     # a sign, where nothing is subtracted from
        (?:\\?[$€£¥]\s?)?
        (?<![^\W_])
        (\d{1,3}(?:,\d{3})+(?:\.\d+)?(?!\d)|\d+(?:\.\d+)?|\.\d+)
        (?:/(\d+)(?![\d/]))?""",
    re.VERBOSE,
)


def last_number(text: str) -> Fraction | None:
    """None: there is no number, or it is not one that anybody reads."""
    plain = _LATEX_FRACTION.sub(r" \1/\2 ", _GROUPS.sub("", text.translate(_SIGNS)))
    found: Fraction | None = None
    for match in _NUMBER.finditer(unicodedata.normalize("NFKC", plain)):
        sign, digits, below = match.groups()
        if len(match.group()) > _DIGITS:
            found = None
            continue
        value = Fraction(digits.replace(",", "")) / (int(below or 1) or 1)
        found = -value if sign else value
    return found


class NumberSettings(Section):
    kind: Literal["number"]
    answer: Annotated[str, BeforeValidator(lambda given: str(given) if type(given) in (int, float) else given)]
    """As text or as a number."""

    @field_validator("answer")
    @classmethod
    def _is_number(cls, answer: str) -> str:
        if last_number(answer) is None:
            raise ValueError(f"{answer!r} has no number")
        return answer


class Number:
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


def written(number: Fraction) -> str:
    """As a whole number or with its decimals, and as a fraction where these do not end: -3, 0.25, 1/3."""
    decimals = next((n for n in range(_DIGITS) if (number * 10**n).denominator == 1), None)
    if decimals is None:
        return str(number)
    digits = f"{abs(int(number * 10**decimals)):0{decimals + 1}d}"
    whole, part = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    return ("-" if number < 0 else "") + whole + (f".{part}" if part else "")
