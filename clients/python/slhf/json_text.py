"""Reads JSON strictly, for the server, the client and training alike: what RFC 8259 allows, and nothing else.

Python's own reader takes `NaN` and `Infinity`, reads `1e999` as infinity, keeps halves of surrogate pairs (no
tokenizer and no answer can hold one), and ends with RecursionError where values are nested too deeply. Here all of
these are a ValueError that says so.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, NoReturn

_MOST_DIGITS = 1_000  # Python reads long integers in quadratic time
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


def read_json(data: bytes | str) -> Any:
    """The value that `data` holds. A byte order mark is skipped.

    Raises ValueError (UnicodeDecodeError for bytes that are not UTF-8, else with the reason in one sentence).
    """
    text = data.removeprefix("\ufeff") if isinstance(data, str) else data.decode("utf-8-sig")
    try:
        value = _DECODER.decode(text)
        if _SURROGATE.search(text):  # the halves of whole pairs have been joined by now
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as exc:
        raise ValueError("values are nested too deeply") from exc
    except UnicodeEncodeError as exc:
        raise ValueError("half of a surrogate pair, which is no character") from exc
    return value


def read_json_lines(lines: Iterable[bytes], place: str) -> Iterator[tuple[int, Any]]:
    """Yield each line's number, counted from 1, and its value; blank lines are left out.

    Raises ValueError as `read_json` does, beginning with "PLACE:NUMBER: "; `place` is the file's name.
    """
    for number, line in enumerate(lines, start=1):
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            try:
                yield number, read_json(line)
            except ValueError as exc:
                raise ValueError(f"{place}:{number}: not JSON: {exc}") from exc


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _whole(digits: str) -> int:
    if len(digits) > _MOST_DIGITS:
        raise ValueError(f"the number {digits:.40} is too long")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"the number {digits:.40} is too large")
    return number


_DECODER = json.JSONDecoder(parse_constant=_refuse, parse_float=_finite, parse_int=_whole)
