"""What a program can say of an answer: right or wrong.

Imported by data, instructions, preference, evaluation and lessons.
"""

import re
from typing import Protocol, runtime_checkable


class Check(Protocol):
    def passed(self, answer: str) -> bool:
        """Whether the answer is right. An empty answer never is.

        Raises SandboxError where this host cannot tell.
        """


@runtime_checkable
class ReadableCheck(Check, Protocol):
    """One that looks for a result: two answers with one result say the same to it."""

    def read(self, answer: str) -> str | None:
        """The result, written in one way; None: there is none."""


_BLOCK = re.compile(
    r"""^(?P<indent>[ \t]*)(?P<fence>`{3,}|~{3,})[^`\n]*\n
        (?P<inside>.*?)
        (?:^[ \t]*(?P=fence)[`~]*[ \t]*$|\Z)""",
    re.MULTILINE | re.DOTALL | re.VERBOSE,
)


def fenced_blocks(text: str) -> list[str]:
    """The contents of each block, without its fence's indentation. A block that is not closed ends with the text."""
    found = _BLOCK.finditer(text.replace("\r\n", "\n"))
    return [re.sub(rf"^[ \t]{{0,{len(one['indent'])}}}", "", one["inside"], flags=re.MULTILINE) for one in found]
