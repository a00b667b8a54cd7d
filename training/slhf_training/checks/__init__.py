"""Checks are programs that say whether an answer is right or wrong.

Imported by data, instructions, preference, evaluation and lessons.
"""

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
