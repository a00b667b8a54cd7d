"""Programs in answers: fenced blocks, and the program that defines a name."""

import ast
import re
from collections.abc import Sequence

_BLOCK = re.compile(
    r"""^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[ \t]*(?P<word>[^\s`]*)[^`\n]*\n
        (?P<inside>.*?)
        (?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)
_PYTHON = frozenset(("", "py", "python", "python3"))


def fenced_blocks(text: str) -> list[str]:
    """Return the contents of each fenced block, without its indentation. An unclosed block ends with the text."""
    return [block for _, block in _blocks(text)]


def _blocks(text: str) -> list[tuple[str, str]]:
    """The blocks with the word behind their fence, which says in what language they are."""
    found = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [
        (one["word"].lower(), re.sub(rf"^[ \t]{{0,{len(one['indent'])}}}", "", one["inside"], flags=re.MULTILINE))
        for one in found
    ]


def program_of(answer: str, name: str) -> str | None:
    """Return the last fenced block that defines the name, else the first block, else the whole text if it is Python.

    Returns None where the answer has no program.
    """
    blocks = fenced_blocks(answer)
    if blocks:
        return _defining(blocks, name) or blocks[0]
    return answer if _parses(answer) else None


def definitions_in(answer: str, name: str, most: int = 3) -> tuple[str, ...]:
    """Return what of an answer may be the program that defines the name, the likeliest first.

    These are the last fenced blocks that define it, at most `most`, and all of Python's blocks as one; of an answer
    without blocks the whole, if it does. Nothing is parsed, so that a hostile text costs little.
    """
    fenced = _blocks(answer)
    if not fenced:
        return (answer,) if _defining([answer], name) else ()
    blocks = [block for word, block in fenced if word in _PYTHON]
    defining = [block for block in blocks if _defining([block], name)]
    together = ["\n".join(blocks)] if defining and len(blocks) > 1 else []
    return tuple(dict.fromkeys([*reversed(defining[-most:]), *together]))


def _defining(blocks: Sequence[str], name: str) -> str | None:
    definition = re.compile(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b", re.MULTILINE)
    return next((block for block in reversed(blocks) if definition.search(block)), None)


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(text.strip())
