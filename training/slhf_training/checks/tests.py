"""Unit tests run the program of an answer together with a test program, in a sandbox."""

from typing import Literal

from pydantic import Field

from slhf.programs import program_of
from slhf.sandbox import ran
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
