"""What a Follower thinks before it answers: what it reads in the draft and in answers of its own.

Its model has written them as the Leader, without the draft in sight, so that they are independent of it and of each
other; they stand in the Follower's turn. It reads their results, and the server counts what these say of the draft
(slhf/readings.py). Written one after the other below the draft, they would be one voice: beside a first answer a small
model copies it.

Thoughts stand in `<think>...</think>`, which the server takes out of an answer. Where the draft stays, and where an own
answer takes its place, nothing follows them: the server puts that text there, to the letter, which a copy of many
tokens would not always be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slhf.readings import Readings
from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT

_THOUGHTS = f"{OPEN_THOUGHT}\n{{thoughts}}\n{CLOSE_THOUGHT}"
STAYS, CHANGES = "It stays.", "It changes."


@dataclass(frozen=True, slots=True)
class Considered:
    thoughts: str
    answer: str | None
    """The draft, or what takes its place; None: the draft changes, and this does not say to what."""
    doubted: bool = False
    """More own answers have another result than the draft's."""
    own: tuple[str, ...] = ()
    """The Follower's own answers, as they stand in its turn."""
    counted: bool = False
    """The thoughts are results: what takes the draft's place follows from them and is not said."""

    def before(self, answer: str | None) -> str:
        """The target: the thoughts, and then this answer; None: nothing, and so the draft."""
        thoughts = _THOUGHTS.format(thoughts=self.thoughts)
        return thoughts if answer is None or self.counted else f"{thoughts}\n{answer}"


def considered(draft: str, own: Sequence[str], read: Callable[[str], str | None]) -> Considered | None:
    """`own`: independent answers to the question; None where there is none."""
    if not own:
        return None
    found = Readings.of(read(draft), [read(answer) for answer in own])
    answer = draft if found.chosen is None else own[found.chosen]
    return Considered(found.text, answer, doubted=found.lead > 0, own=tuple(own), counted=True)
