"""The examples that a prompt gives of the program it asks for: what a draft of that program does with them.

They are read from lines of three forms, `assert f(1) == 2`, a doctest, and `f(1) -> 2`, and only if they call what the
prompt names as the function, with values that are written out. A prompt that tells what a program does wrong shows
calls, too, and is not read. An answer's program runs on all examples in the sandbox (running.py). No prompt gives
enough of them to prove a program right, but one that fails an example is wrong.
"""

import ast
import builtins
import collections
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from slhf.programs import definitions_in, fenced_blocks
from slhf.sandbox import Outcome
from slhf_server.models.requirements.asked import MOST_CHARACTERS
from slhf_server.models.requirements.requirement import is_short
from slhf_server.models.requirements.running import Sandbox

_LONGEST = 500
"""Characters of an example: the parser of Python has its limits, and a hostile prompt would look for them."""
_MOST = 16
_KNOWN = frozenset(
    (*dir(builtins), *collections.__all__, *(name for name in dir(itertools) if name[0] != "_"))
) | frozenset(("math", "re", "heapq", "itertools", "collections", "functools", "bisect", "string"))
"""Names that a program finds in the sandbox."""
_DEFINED = re.compile(r"\bdef\s+([A-Za-z_]\w*)\s*\(")
_ASSERT = re.compile(r"(?:^|`)\s*(assert\s[^`]+)(?:`|$)")
_LEAD = r"(?:[-*•]\s+|\d{1,2}[.)]\s+)?(?:(?:for\s+)?(?:examples?|e\.g\.|ex\.?)\s*\d?\s*:?,?\s*)?"
_RESULT = r"(?:={1,3}>|-+>|➞|→|==?|(?:should\s+)?returns?|should\s+be|gives)"
_SHOWN = re.compile(rf"{_LEAD}`?(?P<call>[A-Za-z_]\w*\(.*?\))`?\s*{_RESULT}\s*`?(?P<value>.+)", re.IGNORECASE)
_REMARK = re.compile(r"[.,;`]*\s+(?:#|//|\(?(?:because|since|as|where)\b)")
_DOUBTFUL = re.compile(
    r"\b(?:not|never|wrong|wrongly|incorrect|incorrectly|fails?|failing|raises?|bad|instead|counter-?examples?)\b|n't",
    re.IGNORECASE,
)
_FAULTY = re.compile(
    r"\b(?:bugs?|buggy|debug|fix(?:ed)?|faulty|broken|actual|actually|currently|i get|i got|it gives me|traceback)\b",
    re.IGNORECASE,
)
"""What is said of a program that is there and does something else."""
_PRINTS = re.compile(r"\bprint(?:s|ed|ing)?\b", re.IGNORECASE)

# Python warns of odd literals as it parses them; what a client's prompt says is not for the operator's log.
_FILE = "<prompt>"
warnings.filterwarnings("ignore", module=re.escape(_FILE))


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
        new = [text for text in dict.fromkeys(texts) if text not in self._held and is_short(text)]
        programs = [(text, program) for text in new for program in definitions_in(text, self.name)]
        ended = await sandbox.outcomes([(program, *self.tests) for _, program in programs])
        for text in new:
            found = [end for (of, _), end in zip(programs, ended, strict=True) if of == text]
            if (held := _verdict(found, fenced=bool(fenced_blocks(text)))) is not None:
                self._held[text] = held

    def met(self, text: str) -> bool:
        """Whether its program does what all examples say."""
        return self._held.get(text) is True

    def missed(self, text: str) -> bool:
        """Whether it does not. Of a text without the function, and of one that could not be run, nothing is known."""
        return self._held.get(text) is False


def _verdict(ends: Sequence[Outcome | None], *, fenced: bool) -> bool | None:
    """What the ends of all that may be a text's program say; None: nothing. Without a fence a text that is no Python
    may be one all the same, with words around it."""
    if "ended" in ends:
        return True
    wrong = ("failed", "unread") if fenced else ("failed",)
    return False if ends and all(end in wrong for end in ends) else None


def examples(prompt: str) -> Examples | None:
    """The examples of a prompt; None where it gives none that is sure."""
    if len(prompt) > MOST_CHARACTERS or _FAULTY.search(prompt):
        return None
    lines = [line.strip() for line in prompt.splitlines() if len(line) <= _LONGEST]
    returned = [] if _PRINTS.search(prompt) else [*_doctests(lines), *_shown(lines)]
    found = [(test, name) for test in (*_asserted(lines), *returned) if (name := _called(test)) is not None]
    defined = set(_DEFINED.findall(prompt))
    calls = Counter(name for _, name in found if name in defined or not defined)
    if not calls:
        return None
    name = calls.most_common(1)[0][0]
    tests = list(dict.fromkeys(test for test, calling in found if calling == name))
    return None if _contradict(tests) else Examples(name, tuple(tests[:_MOST]))


def _asserted(lines: Sequence[str]) -> Iterator[str]:
    """Assertions, alone in a line or between backticks."""
    for before, line in itertools.pairwise(("", *lines)):
        for match in _ASSERT.finditer(line):
            if not _doubtful(before, line[: match.start()] + line[match.end() :]):
                yield match[1].strip()


def _doctests(lines: Sequence[str]) -> Iterator[str]:
    """Calls with the value under them, and comparisons. Where a statement comes before, its names would be missing."""
    inputs = [number for number, line in enumerate(lines) if line.startswith(">>> ")]
    if any(_parsed(lines[number][4:]) is None for number in inputs):
        return
    for number in inputs:
        before, (call, value, behind) = ("", *lines)[number], (*lines[number:], "", "", "")[:3]
        if _doubtful(before, "") or (value and not value.startswith(">>>") and not _ends_value(behind)):
            continue
        tree = _parsed(call[4:])
        if isinstance(tree, ast.Compare) and (_parsed(value) is None or value == "True"):
            yield f"assert {call[4:].strip()}"
        elif test := _equal(call[4:], value):
            yield test


def _shown(lines: Sequence[str]) -> Iterator[str]:
    """Calls with an arrow, or such a word, and the value behind it. A fraction may be rounded, so it is left out."""
    for before, line in itertools.pairwise(("", *lines)):
        match = None if line.startswith(">>>") or _doubtful(before, line) else _SHOWN.fullmatch(line)
        if match is not None:
            value = _REMARK.split(match["value"], maxsplit=1)[0].rstrip(" .,;`")
            if not any(isinstance(constant, float) for constant in _constants(value)):
                yield from filter(None, [_equal(match["call"], value)])


def _doubtful(before: str, around: str) -> bool:
    """Whether an example is told of as none: beside it, or in the words that lead to it."""
    return _DOUBTFUL.search(around) is not None or (before.endswith(":") and _DOUBTFUL.search(before) is not None)


def _ends_value(line: str) -> bool:
    """Whether a doctest's value has no second line here."""
    return not line or line.startswith((">>>", '"""', "'''", "```", "~~~")) or _SHOWN.match(line) is not None


def _equal(call: str, value: str) -> str | None:
    """The test that the call returns the value, if that is written as a value of Python, without a part left out."""
    called, returned = _parsed(call), _parsed(value)
    if called is None or returned is None or any(constant is ... for constant in _constants(value)):
        return None
    try:
        ast.literal_eval(returned)
        return f"assert ({ast.unparse(called)}) == ({ast.unparse(returned)})"  # without remarks
    except (ValueError, TypeError, RecursionError, MemoryError):
        return None


def _constants(value: str) -> Iterator[object]:
    tree = _parsed(value)
    return iter(()) if tree is None else (node.value for node in ast.walk(tree) if isinstance(node, ast.Constant))


def _called(test: str) -> str | None:
    """The one function that a test calls, if all else in it is written out or Python's own; None: not so."""
    tree = _tree(test, "exec")
    if not isinstance(tree, ast.Module) or len(tree.body) != 1 or not isinstance(tree.body[0], ast.Assert):
        return None
    nodes = list(ast.walk(tree.body[0].test))
    bound = {node.id for node in nodes if isinstance(node, ast.Name) and not isinstance(node.ctx, ast.Load)}
    bound |= {node.arg for node in nodes if isinstance(node, ast.arg)}
    names = {node.id for node in nodes if isinstance(node, ast.Name)} - bound - _KNOWN
    called = {node.func.id for node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)}
    return next(iter(names)) if len(names) == 1 and names <= called else None


def _contradict(tests: Sequence[str]) -> bool:
    """Whether two of them want different values of one call."""
    wanted: dict[str, str] = {}
    for test in tests:
        call, equals, value = test.partition(" == ")
        if equals and wanted.setdefault(call, value) != value:
            return True
    return False


def _parsed(source: str) -> ast.expr | None:
    tree = _tree(source.strip(), "eval")
    return tree.body if isinstance(tree, ast.Expression) else None


def _tree(source: str, mode: str) -> ast.AST | None:
    try:
        tree: ast.AST = ast.parse(source, _FILE, mode)
        return tree
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return None
