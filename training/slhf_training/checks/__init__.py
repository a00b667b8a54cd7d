"""What a program can say of an answer: right or wrong. One kind of check, one file."""

from typing import Protocol


class Check(Protocol):
    def passed(self, answer: str) -> bool:
        """Whether the answer is right. An empty answer never is.

        Raises SandboxError where it cannot be said on this host.
        """
