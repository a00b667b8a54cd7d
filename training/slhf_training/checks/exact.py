"""The answer, or as many of its last lines as the right one has, is exactly the right one.

Quotes, markup, a fence, white space and a full stop around it do not count, nor does how JSON or a list with commas is
spaced; words, case and order do.
"""

import json
import re
from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field

from slhf_training.config import Section

_FENCE = re.compile(r"^\s*(```|~~~).*$", re.MULTILINE)
_BOXED = re.compile(r"\\boxed\{([^{}]*)\}")
_AROUND = " \t*_`\"'“”‘’$"


class ExactSettings(Section):
    kind: Literal["exact"]
    answer: str = Field(min_length=1)


class Exact:
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
    """None: the text is no list or object of JSON."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list | dict) else None
