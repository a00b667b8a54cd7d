"""What a program can say of an answer: right or wrong. One kind of check, one file."""

from typing import Protocol, runtime_checkable


class Check(Protocol):
    def passed(self, answer: str) -> bool:
        """Whether the answer is right. An empty answer never is.

        Raises SandboxError where it cannot be said on this host.
        """


@runtime_checkable
class ReadableCheck(Check, Protocol):
    """One that looks for a result: two answers with one result say the same to it."""

    def read(self, answer: str) -> str | None:
        """The result, written in one way; None: there is none."""
