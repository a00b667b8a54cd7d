"""The examples that a prompt gives of the program it asks for: what a draft of that program does with them.

They are read from lines of three forms, `assert f(1) == 2`, a doctest, and `f(1) -> 2`, and only if they call what the
prompt names as the function. An answer's program runs on all of them in the sandbox (running.py). No prompt gives
enough examples to prove a program right, but one that fails an example is wrong.
"""

import ast
import builtins
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from slhf.programs import definition_in
from slhf_server.models.requirements.asked import MOST_CHARACTERS
from slhf_server.models.requirements.requirement import is_short
from slhf_server.models.requirements.running import Sandbox

_LONGEST = 500
"""Characters of an example: the parser of Python has its limits, and a hostile prompt would look for them."""
_MOST = 16
_DEFINED = re.compile(r"\bdef\s+([A-Za-z_]\w*)\s*\(")
_ASSERT = re.compile(r"(?:^|`)\s*(assert\s[^`]+)(?:`|$)")
_LEAD = r"(?:[-*•]\s+|\d{1,2}[.)]\s+)?(?:(?:for\s+)?(?:examples?|e\.g\.|ex\.?)\s*:?,?\s*)?"
_RESULT = r"(?:={1,3}>|-+>|➞|→|==?|(?:should\s+)?returns?|should\s+be|gives)"
_ARROW = re.compile(rf"{_LEAD}`?(?P<call>[A-Za-z_]\w*\(.*?\))`?\s*{_RESULT}\s*`?(?P<result>.+)", re.IGNORECASE)
_REMARK = re.compile(r"\s+(?:#|//|because\b|since\b|as\b|where\b|when\b)|\.\s|\s{2,}|`")
_DOUBTFUL = re.compile(
    r"\b(?:not|never|wrong|wrongly|incorrect|incorrectly|fails?|failing|raises?|bad|instead)\b|n't", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Examples:
    """Implements `Checkable`, of the texts that were run before (`look`)."""

    name: str
    """Of the function."""
    tests: tuple[str, ...]
    """Python that raises where an example does not hold."""
    _held: dict[str, bool] = field(default_factory=dict)

    async def look(self, sandbox: Sandbox, texts: Sequence[str]) -> None:
        """Run the programs of the texts, those of them that define the function."""
        programs = {text: definition_in(text, self.name) for text in texts if text not in self._held and is_short(text)}
        for text, held in (await sandbox.passed({t: (p, *self.tests) for t, p in programs.items() if p})).items():
            self._held[text] = held

    def met(self, text: str) -> bool:
        """Whether its program does what all examples say."""
        return self._held.get(text) is True

    def missed(self, text: str) -> bool:
        """Whether it does not. Of a text without the function, and of one that could not be run, nothing is known."""
        return self._held.get(text) is False


def examples(prompt: str) -> Examples | None:
    """The examples of a prompt; None where it gives none that is sure."""
    if len(prompt) > MOST_CHARACTERS:
        return None
    lines = [line.strip() for line in prompt.splitlines() if len(line) <= _LONGEST]
    found = [*_asserted(lines), *_doctests(lines), *_shown(lines)]
    defined = set(_DEFINED.findall(prompt))
    calls = Counter(name for _, names in found for name in names if name in defined or not defined)
    if not calls:
        return None
    name = calls.most_common(1)[0][0]
    tests = dict.fromkeys(test for test, names in found if name in names)
    return Examples(name, tuple(tests)[:_MOST])


_Found = Iterator[tuple[str, frozenset[str]]]
"""Tests, each with the names that it calls."""


def _asserted(lines: Sequence[str]) -> _Found:
    """Assertions, alone in a line or between backticks."""
    for line in lines:
        for match in _ASSERT.finditer(line):
            around = line[: match.start()] + line[match.end() :]
            if not _DOUBTFUL.search(around) and (names := _called(match[1].strip())):
                yield match[1].strip(), names


def _doctests(lines: Sequence[str]) -> _Found:
    """Calls with the value under them, and comparisons. Where a statement comes before, its names would be missing."""
    inputs = [number for number, line in enumerate(lines) if line.startswith(">>> ")]
    if any(_parsed(lines[number][4:], "eval") is None for number in inputs):
        return
    for number in inputs:
        call = lines[number][4:].strip()
        shown = lines[number + 1] if number + 1 < len(lines) else ""
        compared = isinstance(getattr(_parsed(call, "eval"), "body", None), ast.Compare)
        test = f"assert {call}" if compared and shown != "False" else _equal(call, shown)
        if test is not None and (names := _called(test)):
            yield test, names


def _shown(lines: Sequence[str]) -> _Found:
    """Calls with an arrow, or such a word, and the value behind it."""
    for line in lines:
        if line.startswith(">>>") or (match := _ARROW.fullmatch(line)) is None or _DOUBTFUL.search(line):
            continue
        results = (match["result"], _REMARK.split(match["result"], maxsplit=1)[0])
        tests = (_equal(match["call"], result.rstrip(" .,;`")) for result in results)
        test = next(filter(None, tests), None)
        if test is not None and (names := _called(test)):
            yield test, names


def _equal(call: str, value: str) -> str | None:
    """The test that the call returns the value, if that is written as a value of Python."""
    called, returned = _parsed(call, "eval"), _parsed(value, "eval")
    if called is None or returned is None:
        return None
    try:
        ast.literal_eval(returned)
        return f"assert ({ast.unparse(called)}) == ({ast.unparse(returned)})"  # without remarks
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def _called(test: str) -> frozenset[str]:
    """The functions that a test calls by name, without Python's own. Empty: it is no single assertion."""
    tree = _parsed(test, "exec")
    if not isinstance(tree, ast.Module) or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Assert):
        return frozenset()
    calls = (node.func for node in ast.walk(tree.body[0].test) if isinstance(node, ast.Call))
    return frozenset(one.id for one in calls if isinstance(one, ast.Name) and not hasattr(builtins, one.id))


def _parsed(source: str, mode: str) -> ast.AST | None:
    try:
        tree: ast.AST = ast.parse(source.strip(), mode=mode)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
    return tree
