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
_COUNTED = "The draft: {draft}. The others: {own}.\nA is the draft's: {letters}. So {counts}. {verdict}"
_NOTHING, _UNREAD = "none", "-"
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
    """`own`: independent answers to the question, at most 25; None where there is none.

    The results come first. Then each gets a letter, the draft's is A: a small model reads numbers well and counts wrong
    among them, and of four letters it knows how many there are.
    """
    if not own:
        return None
    drafts, results = read(draft), [read(answer) for answer in own]
    letters = _letters(drafts, results)
    said = [_UNREAD if result is None else letters[result] for result in results]
    counts = Counter(said)
    others = [letter for letter in letters.values() if letter != "A"]
    most = max(others, key=lambda letter: counts[letter], default=None)
    ahead = 0 if most is None else counts[most] - counts["A"]
    changes = ahead >= _MARGIN
    thoughts = _COUNTED.format(
        draft=drafts or _NOTHING,
        own=", ".join(result or _NOTHING for result in results),
        letters=" ".join(said),
        counts=", ".join(f"{letter} {counts[letter]}" for letter in ("A", most) if letter),
        verdict=CHANGES if changes else STAYS,
    )
    chosen = own[said.index(most)] if changes and most else draft
    return Considered(thoughts, chosen, doubted=ahead > 0, own=tuple(own))


def _letters(draft: str | None, results: Sequence[str | None]) -> dict[str, str]:
    """Of each result its letter, in the order in which they come; A is the draft's, whether it has a result or not."""
    others = dict.fromkeys(result for result in results if result not in (None, draft))
    letters = {result: chr(ord("B") + place) for place, result in enumerate(others) if result is not None}
    return letters if draft is None else {draft: "A", **letters}
