"""What a Follower thinks before it answers: it works the question out itself, and again where the draft says otherwise.

Two answers of its own that agree with each other and not with the draft speak against the draft, and the first of them
takes its place; anything else leaves the draft as it is. That is self-consistency (Wang et al., ICLR 2023) with the
draft as one of three voices, within one pass: nobody samples, votes or judges at run time. One answer alone would
break every right draft that the model itself gets wrong.

Thoughts stand in `<think>...</think>`, which the server takes out of an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

_THOUGHTS = "<think>\n{thoughts}\n</think>\n{answer}"
_NOTHING = "none"


@dataclass(frozen=True, slots=True)
class Considered:
    thoughts: str
    answer: str | None
    """The draft, or the own answer that takes its place; None: the draft changes, and this does not say to what."""
    doubted: bool
    """The first own answer has another result than the draft."""

    def before(self, answer: str) -> str:
        return _THOUGHTS.format(thoughts=self.thoughts, answer=answer)


def considered(draft: str, own: Sequence[str], read: Callable[[str], str | None]) -> Considered | None:
    """`own`: independent answers to the question, of which two are used; None where there is no second one to ask."""
    results = [read(answer) or _NOTHING for answer in own[:2]]
    drafts = read(draft) or _NOTHING
    stays = f"The draft: {drafts}. It stays."
    if results[0] == drafts:
        return Considered(f"{own[0]}\n{stays}", draft, doubted=False)
    if len(own) < 2:
        return None
    thoughts = f"{own[0]}\nThe draft: {drafts}. Once more:\n{own[1]}\n"
    if results[1] == drafts:
        return Considered(thoughts + stays, draft, doubted=True)
    if results[0] == results[1] != _NOTHING:
        return Considered(f"{thoughts}Twice {results[0]}, and the draft: {drafts}. It changes.", own[0], doubted=True)
    unsure = f"{results[0]}, {results[1]}, and the draft: {drafts}. Not sure: it stays."
    return Considered(thoughts + unsure, draft, doubted=True)
