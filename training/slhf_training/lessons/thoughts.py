"""What a Follower thinks before it answers: what it reads in the draft and in its own answers.

Its model wrote the own answers as the Leader and without the draft in sight, so that they are independent of the draft
and of each other; they stand in the Follower's turn. The Follower reads the results in them, and the server counts what
these say of the draft (slhf/readings.py). If it wrote them one after the other below the draft, they would be one
voice, because a small model copies an answer that it sees.

Thoughts stand in `<think>...</think>`, which the server takes out of an answer. Where the draft stays, and where an own
answer takes its place, nothing follows them: the server puts that text there to the letter. A copy that the model
writes would not always be exact.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from slhf.readings import Readings
from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT

_THOUGHTS = f"{OPEN_THOUGHT}\n{{thoughts}}\n{CLOSE_THOUGHT}"
CHANGES = "It changes."


@dataclass(frozen=True, slots=True)
class Considered:
    thoughts: str
    answer: str | None
    """The draft, or what takes its place; None where the draft changes and the thoughts do not say to what."""
    doubted: bool = False
    """Whether more own answers agree on another result than have the draft's."""
    own: tuple[str, ...] = ()
    """The Follower's own answers as they stand in its turn."""
    counted: bool = False
    """Whether the thoughts are results: what takes the draft's place is then counted from them and not written."""

    def before(self, answer: str | None) -> str:
        """Return the target: the thoughts and then this answer, or the thoughts alone where it is None or counted."""
        thoughts = _THOUGHTS.format(thoughts=self.thoughts)
        return thoughts if answer is None or self.counted else f"{thoughts}\n{answer}"


def considered(draft: str, own: Sequence[str], read: Callable[[str], str | None]) -> Considered | None:
    """Return what to think of the draft beside `own`, independent answers to the question; None without any."""
    if not own:
        return None
    found = Readings.of(read(draft), [read(answer) for answer in own])
    chosen = found.chosen()
    answer = draft if chosen is None else own[chosen]
    return Considered(found.text, answer, doubted=found.lead > 0, own=tuple(own), counted=True)
