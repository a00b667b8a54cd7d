"""What a Follower thinks before it answers: whether answers of its own speak against the draft.

Its model has written them as the Leader, without the draft in sight, so that they are independent of it and of each
other; they stand in the Follower's turn. Where two more of them give another result than give the draft's, that one
takes its place. This is self-consistency (Wang et al., ICLR 2023), counted by the Follower itself: no judge runs. One
answer alone would break every right draft that the model itself gets wrong. Written one after the other below the
draft, they would be one voice: beside a first answer a small model copies it.

Thoughts stand in `<think>...</think>`, which the server takes out of an answer. Where the draft stays, nothing follows
them: the server puts the draft there, to the letter, which a copy of many tokens would not always be.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

_THOUGHTS = "<think>\n{thoughts}\n</think>"
_NOTHING = "none"
_MARGIN = 2
"""How many more own answers have to speak for another result than for the draft's."""
STAYS, CHANGES = "It stays.", "It changes."


@dataclass(frozen=True, slots=True)
class Considered:
    thoughts: str
    answer: str | None
    """The draft, or the own answer that takes its place; None: the draft changes, and this does not say to what."""
    doubted: bool = False
    """More own answers have another result than the draft's."""
    own: tuple[str, ...] = ()
    """The Follower's own answers, as they stand in its turn."""

    def before(self, answer: str | None) -> str:
        """The target: the thoughts, and then this answer; None: nothing, and so the draft."""
        thoughts = _THOUGHTS.format(thoughts=self.thoughts)
        return thoughts if answer is None else f"{thoughts}\n{answer}"


def considered(draft: str, own: Sequence[str], read: Callable[[str], str | None]) -> Considered | None:
    """`own`: independent answers to the question; None where there is none."""
    if not own:
        return None
    drafts = read(draft) or _NOTHING
    results = [read(answer) or _NOTHING for answer in own]
    voices = Counter(results)
    support = voices[drafts]
    against = {result: count for result, count in voices.items() if result not in (drafts, _NOTHING)}
    most = max(against, key=lambda result: against[result], default=None)
    changes = most is not None and against[most] - support >= _MARGIN
    said = [f"The draft: {drafts}. The others: {', '.join(results)}.", f"With the draft: {support}."]
    said += [] if most is None else [f"For {most}: {against[most]}."]
    thoughts = " ".join([*said, CHANGES if changes else STAYS])
    chosen = own[results.index(most)] if changes and most is not None else draft
    return Considered(thoughts, chosen, doubted=bool(against) and max(against.values()) > support, own=tuple(own))
