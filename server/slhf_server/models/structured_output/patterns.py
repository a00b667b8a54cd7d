"""Spells out JSON Schema's regular expressions, which are those of ECMA 262, in the syntax that two engines share.

Both read a schema's patterns: jsonschema-rs, which validates, and llguidance, which makes vLLM write what matches. They
are written in Rust, match in linear time, and differ from ECMA 262 in spelling (`[[a]]`, `\\d`, `\\cA`, `[]`) and
in what they take beyond it (`(?P<x>a)`, `a++`, `(?i)`). So a pattern is read here once, and spelled out in what both
take and mean alike. Look-around and back-references have no linear match, and are refused.
"""

import re
from collections.abc import Iterator

_LAST = 0x10FFFF
_DIGIT = [(0x30, 0x39)]
_WORD = [(0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A)]
_SPACE = [
    *((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x1680, 0x1680), (0x2000, 0x200A), (0x2028, 0x2029)),
    *((0x202F, 0x202F), (0x205F, 0x205F), (0x3000, 0x3000), (0xFEFF, 0xFEFF)),
]
_LINE_END = [(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)]
_CONTROLS = {"t": 0x09, "n": 0x0A, "v": 0x0B, "f": 0x0C, "r": 0x0D, "0": 0x00}
_META = frozenset("\\.+*?()|[]{}^$#&-~")
_REFUSED = [
    (r"\(\?<?[=!]", "look-around"),
    (r"\\[1-9]|\\k", "a back-reference"),
    (r"\(\?P", "Python's (?P...)"),
    (r"\(\?[a-z]*(?:-[a-z]*)?\)", "flags for the whole pattern"),
    (r"\(\?", "a group that ECMA 262 does not have"),
]
_CHARACTER = r"""(?P<character>\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\u[0-9a-fA-F]{4}
    |\\u\{[0-9a-fA-F]{1,6}\}|\\x[0-9a-fA-F]{2}|\\c[a-zA-Z]|\\[tnvfr]|\\0(?!\d)|\\[^a-zA-Z0-9]|"""
_SETS = r"(?P<property>\\[pP]\{\w+(?:=\w+)?\})|(?P<set>\\[dDwWsS])"
_TOKEN = re.compile(
    r"""(?P<open>\((?:\?:|\?[ims]+(?:-[ims]+)?:|\?-[ims]+:|\?<(?![=!])[^\W\d][\w$]*>|(?!\?)))
    |(?P<close>\))|(?P<either>\|)|(?P<any>\.)|(?P<class>\[\^?)|(?P<assertion>[\^$]|\\[bB])
    |(?P<quantifier>(?:[*+?]|\{(?P<least>\d{1,6})(?P<to>,(?P<most>\d{0,6}))?\})\??)|"""
    rf"{_SETS}|{_CHARACTER}(?!\{{,\d+\}})[^\\()*+?.|\[])",
    re.VERBOSE | re.DOTALL,
)
_IN_CLASS = re.compile(rf"(?P<end>\])|(?P<backspace>\\b)|{_SETS}|{_CHARACTER}[^\\])", re.VERBOSE | re.DOTALL)


def spelled_out(pattern: str) -> str:
    """The same pattern in the syntax that both engines share. Raises ValueError saying what is wrong in a few words."""
    return "".join(_translated(pattern))


def _translated(pattern: str) -> Iterator[str]:
    at, depth, repeatable = 0, 0, False
    while at < len(pattern):
        token = _TOKEN.match(pattern, at)
        if token is None:
            raise ValueError(_why(pattern, at))
        kind, start, at = _kind(token), at, token.end()
        if kind == "class":
            spelled, at = _class(pattern, at, negated=token[0] == "[^")
            yield spelled
        else:
            yield _spelled(kind, token[0])
        if kind == "quantifier":
            _check_quantifier(token, repeatable)
        depth += (kind == "open") - (kind == "close")
        if depth < 0:
            raise ValueError(f"closes a group that was not opened, at character {start}")
        repeatable = kind in ("close", "class", "any", "property", "set", "character")
    if depth:
        raise ValueError("does not close a group")


def _kind(token: re.Match[str]) -> str:
    return "quantifier" if token["quantifier"] else str(token.lastgroup)


def _spelled(kind: str, text: str) -> str:
    """A token outside of brackets, spelled out."""
    match kind:
        case "open" if text.startswith("(?<"):
            return "(?:"  # a group's name serves back-references alone
        case "any":
            return f"[{_ranges(_others(_LINE_END))}]"
        case "set":
            return f"[{_ranges(_set(text))}]"
        case "character":
            return _escaped(_code(text))
    return text


def _class(pattern: str, at: int, negated: bool) -> tuple[str, int]:
    """The class whose contents begin at `at`, with its brackets, and where the pattern goes on after it."""
    parts: list[str] = []
    low: int | None = None  # the character that a "-" would make the beginning of a range
    ranged = False  # a "-" stands behind it
    while token := _IN_CLASS.match(pattern, at):
        kind, text, at = str(token.lastgroup), token[0], token.end()
        if kind == "end":
            inside = "".join([*parts, *[r"\-"] * ranged])
            negated ^= not inside  # ECMA's [] is nothing and [^] anything; Rust writes neither so
            return f"[{'^' * negated}{inside or _ranges([(0, _LAST)])}]", at
        code = {"backspace": 0x08}.get(kind) if kind != "character" else _code(text)
        if text == "-" and low is not None and not ranged:
            ranged = True
        elif ranged and low is not None and code is not None:
            if code < low:
                raise ValueError("has a range that is out of order")
            parts[-1] += f"-{_escaped(code)}"
            low, ranged = None, False
        else:
            parts += [r"\-"] * ranged
            parts.append(_ranges(_set(text)) if kind == "set" else text if code is None else _escaped(code))
            low, ranged = code, False
    raise ValueError(_why(pattern, at) if at < len(pattern) else "does not close a [")


def _check_quantifier(token: re.Match[str], repeatable: bool) -> None:
    if not repeatable:
        raise ValueError(f"repeats nothing, or what repeats already: {token[0]}")
    if token["most"] and int(token["most"]) < int(token["least"]):
        raise ValueError(f"repeats at least more than at most: {token[0]}")


def _why(pattern: str, at: int) -> str:
    named = next((name for found, name in _REFUSED if re.compile(found).match(pattern, at)), None)
    return f"has {named}" if named else f"is not ECMA 262 at {pattern[at : at + 8]!r}"


def _code(text: str) -> int:
    """The code of the character that a token stands for.

    Raises ValueError for half of a surrogate pair and for a number beyond Unicode.
    """
    if len(text) == 1:
        return ord(text)
    if len(text) == 12:  # \ud83d\ude00
        return ord(bytes.fromhex(text[2:6] + text[8:12]).decode("utf-16-be"))
    match text[1]:
        case "u" | "x":
            named = int(text[2:].strip("{}"), 16)
            if named > _LAST or 0xD800 <= named < 0xE000:
                raise ValueError(f"names no character: {text}")
            return named
        case "c":
            return ord(text[2]) % 32
        case letter:
            return _CONTROLS.get(letter, ord(letter))


def _escaped(code: int) -> str:
    character = chr(code)
    if character in _META:
        return f"\\{character}"
    return character if character.isprintable() else f"\\u{{{code:X}}}"


def _set(text: str) -> list[tuple[int, int]]:
    """The ranges that \\d and the like stand for; ECMA's are ASCII, but for white space."""
    members = {"d": _DIGIT, "w": _WORD, "s": _SPACE}[text[1].lower()]
    return _others(members) if text[1].isupper() else members


def _others(ranges: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Every character that is in none of the ranges, which are in order."""
    begins = [0, *(high + 1 for _, high in ranges)]
    ends = [*(low - 1 for low, _ in ranges), _LAST]
    return [(low, high) for low, high in zip(begins, ends, strict=True) if low <= high]


def _ranges(ranges: list[tuple[int, int]]) -> str:
    return "".join(_escaped(low) if low == high else f"{_escaped(low)}-{_escaped(high)}" for low, high in ranges)
