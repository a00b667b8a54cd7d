"""Fenced blocks of Markdown."""

import re

_BLOCK = re.compile(
    r"""^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[^`\n]*\n
        (?P<inside>.*?)
        (?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def fenced_blocks(text: str) -> list[str]:
    """What stands inside each, without the indentation of its fence. A block that is not closed ends with the text."""
    found = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [re.sub(rf"^[ \t]{{0,{len(one['indent'])}}}", "", one["inside"], flags=re.MULTILINE) for one in found]
