"""The last number of a text, as answers to sums give it; training checks by it, and a judge counts by it."""

import re
import unicodedata
from fractions import Fraction

_SIGNS = str.maketrans({"\N{MINUS SIGN}": "-", "\N{EN DASH}": "-"})
_GROUPS = re.compile(r"(?<=\d)(?:\{,\}|\\[,!; ]|[\u00a0\u2009\u202f])(?=\d{3}(?!\d))")
_LATEX_FRACTION = re.compile(r"\\[dt]?frac\s*\{\s*(\d+)\s*\}\s*\{\s*(\d+)\s*\}")
_DIGITS = 1000
"""A longer number counts as none: it is no answer to anything, and reading it takes long."""
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
    """The last number in the text; None where there is none, or one with too many digits to be read."""
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


def written(number: Fraction) -> str:
    """The number as an integer or with its decimals, or as a fraction where these do not end: -3, 0.25, 1/3."""
    decimals = next((n for n in range(_DIGITS) if (number * 10**n).denominator == 1), None)
    if decimals is None:
        return str(number)
    digits = f"{abs(int(number * 10**decimals)):0{decimals + 1}d}"
    whole, part = digits[: len(digits) - decimals], digits[len(digits) - decimals :]
    return ("-" if number < 0 else "") + whole + (f".{part}" if part else "")
