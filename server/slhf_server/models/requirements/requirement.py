"""One thing that a prompt asks for, as programs that look at a text."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

Check = Callable[[str], bool]
MOST_CHARACTERS = 20_000
"""A longer text neither meets nor misses anything: looking at it would hold the event loop."""


class Checkable(Protocol):
    """What a text may meet or miss, or neither where a program does not know."""

    def met(self, text: str) -> bool: ...

    def missed(self, text: str) -> bool: ...


@dataclass(frozen=True, slots=True)
class Requirement:
    """Implements `Checkable`.

    People count words in more than one way, so it has a check for each definition of what it says.
    """

    name: str
    checks: tuple[Check, ...]
    forbids: str = ""
    """Characters that no text has which meets it, as a class of a regular expression spells them."""

    def met(self, text: str) -> bool:
        """Whether the text does what is asked by every definition."""
        return is_short(text) and all(check(text) for check in self.checks)

    def missed(self, text: str) -> bool:
        """Whether it does not by any, nor would without the line that introduces it, or closes it, or asterisks."""
        return is_short(text) and not any(check(view) for view in _views(text) for check in self.checks)


def misses(requirements: Sequence[Checkable], text: str) -> bool:
    """Whether the text clearly lacks something."""
    return any(one.missed(text) for one in requirements)


def meets(requirements: Sequence[Checkable], text: str) -> bool:
    """Whether the text has all."""
    return all(one.met(text) for one in requirements)


def loses(requirements: Sequence[Checkable], before: str, after: str) -> bool:
    """Whether a text that takes the place of another lacks what that one had."""
    return any(one.met(before) and one.missed(after) for one in requirements)


def pattern_of(requirements: Sequence[Checkable]) -> str | None:
    """A regular expression for texts without the characters that are forbidden; None: none is."""
    forbidden = "".join(one.forbids for one in requirements if isinstance(one, Requirement))
    return f"[^{forbidden}]+" if forbidden else None


def is_short(text: str) -> bool:
    return len(text) <= MOST_CHARACTERS


def _views(text: str) -> Iterator[str]:
    """The text as it is, and as IFEval's loose rule sees it: a chat model's first and last lines may be no answer."""
    lines = text.strip().split("\n")
    for part in (lines, lines[1:], lines[:-1], lines[1:-1]):
        if view := "\n".join(part).strip():
            yield view
            yield view.replace("*", "")
