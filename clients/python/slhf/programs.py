"""Programs in answers: fenced blocks, and the program that defines a name."""

import ast
import re
from collections.abc import Sequence

_BLOCK = re.compile(
    r"""^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[^`\n]*\n
        (?P<inside>.*?)
        (?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def fenced_blocks(text: str) -> list[str]:
    """Return the contents of each fenced block, without its indentation. An unclosed block ends with the text."""
    found = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [re.sub(rf"^[ \t]{{0,{len(one['indent'])}}}", "", one["inside"], flags=re.MULTILINE) for one in found]


def program_of(answer: str, name: str) -> str | None:
    """Return the last fenced block that defines the name, else the first block, else the whole text if it is Python.

    Returns None where the answer has no program.
    """
    blocks = fenced_blocks(answer)
    if blocks:
        return _defining(blocks, name) or blocks[0]
    return answer if _parses(answer) else None


def definition_in(answer: str, name: str) -> str | None:
    """Return the last fenced block that defines the name; of an answer without blocks, the whole, if it does.

    Nothing is parsed, so that a hostile text costs little here, and a program that is no Python is one all the same.
    """
    return _defining(fenced_blocks(answer) or [answer], name)


def _defining(blocks: Sequence[str], name: str) -> str | None:
    definition = re.compile(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b", re.MULTILINE)
    return next((block for block in reversed(blocks) if definition.search(block)), None)


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(text.strip())
