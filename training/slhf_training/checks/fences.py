"""Fenced blocks of Markdown."""

import re

_BLOCK = re.compile(
    r"""^[ ]{0,3}(?P<fence>`{3,}|~{3,})[^`\n]*\n
        (?P<inside>.*?)
        (?:^[ ]{0,3}(?P=fence)[`~]*[ \t]*$|\Z)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def fenced_blocks(text: str) -> list[str]:
    """What stands inside each. A block that is not closed ends with the text."""
    return [match["inside"] for match in _BLOCK.finditer(text.replace("\r\n", "\n"))]
