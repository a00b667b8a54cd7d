"""Checks are programs that say whether an answer is right or wrong.

Imported by data, instructions, preference, evaluation and lessons.
"""

import re
from typing import Protocol, runtime_checkable


class Check(Protocol):
    def passed(self, answer: str) -> bool:
        """Return whether the answer is right. An empty answer never is.

        Raises SandboxError where this host cannot tell.
        """


@runtime_checkable
class ReadableCheck(Check, Protocol):
    """A check that looks for a result in the answer: answers with the same result are the same to it."""

    def read(self, answer: str) -> str | None:
        """Return the result in one spelling, so that equal results are equal texts; None where there is no result."""


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
