"""Unit tests run the program of an answer together with a test program, in a sandbox."""

import ast
import re
from typing import Literal

from pydantic import Field

from slhf_training.checks import fenced_blocks
from slhf_training.checks.sandbox import ran
from slhf_training.config import Section


class UnitTestsSettings(Section):
    kind: Literal["tests"]
    test_program: str = Field(min_length=1)
    """Python that runs after the answer's program, in the same module. It comes to its end where that program is right,
    and raises where it is wrong."""
    entry_point: str = Field(min_length=1)
    """The name that the answer has to define."""
    setup: str = ""
    """Python that runs between the answer's program and the test program."""


class UnitTests:
    def __init__(self, settings: UnitTestsSettings) -> None:
        self._settings = settings

    def passed(self, answer: str) -> bool:
        program = program_of(answer, self._settings.entry_point)
        return program is not None and ran((program, self._settings.setup, self._settings.test_program))


def program_of(answer: str, name: str) -> str | None:
    """Return the last fenced block that defines the name, else the first block, else the whole text if it is Python.

    Returns None where the answer has no program.
    """
    blocks = fenced_blocks(answer)
    definition = re.compile(rf"^(?:async\s+def|def|class)\s+{re.escape(name)}\b", re.MULTILINE)
    defining = [block for block in blocks if definition.search(block)]
    if blocks:
        return defining[-1] if defining else blocks[0]
    return answer if _parses(answer) else None


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return bool(text.strip())
