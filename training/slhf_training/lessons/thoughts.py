"""What a Follower thinks before it answers: it works the question out itself, and again where the draft says otherwise.

Two answers of its own that agree with each other and not with the draft speak against the draft, and the first of them
takes its place; anything else leaves the draft as it is. That is self-consistency (Wang et al., ICLR 2023) with the
draft as one of three voices, within one pass: nobody samples, votes or judges at run time. One answer alone would
break every right draft that the model itself gets wrong.

Thoughts stand in `<think>...</think>`, which the server takes out of an answer.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
_THOUGHTS = "<think>\n{thoughts}\n</think>\n{answer}"
_NOTHING = "none"


@dataclass(frozen=True, slots=True)
class Target:
    text: str
    sampled: tuple[Span, ...] = ()
    """From where to where it is a sample of the model that learns."""


@dataclass(frozen=True, slots=True)
class Considered:
    thoughts: str
    answer: str | None
    """The draft, or the own answer that takes its place; None: the draft changes, and this does not say to what."""
    doubted: bool
    """The first own answer has another result than the draft."""
    sampled: Sequence[str] = ()
    """Parts of the thoughts, in their order, that are samples of the model that learns."""

    def before(self, answer: str) -> Target:
        """The thoughts, and then this answer."""
        spans, end = [], 0
        text = _THOUGHTS.format(thoughts=self.thoughts, answer=answer)
        for part in self.sampled:
            start = text.index(part, end)
            end = start + len(part)
            spans.append((start, end))
        return Target(text, tuple(spans))


def considered(draft: str, own: Sequence[str], read: Callable[[str], str | None]) -> Considered | None:
    """`own`: independent answers to the question, of which two are used; None where there is no second one to ask."""
    results = [read(answer) or _NOTHING for answer in own[:2]]
    drafts = read(draft) or _NOTHING
    first = f"{own[0]}\nMine: {results[0]}. The draft: {drafts}."
    if results[0] == drafts:
        return Considered(f"{first} The same: it stays.", draft, doubted=False, sampled=own[:1])
    if len(own) < 2:
        return None
    both = f"{first} Once more:\n{own[1]}\nMine: {results[0]}, {results[1]}. The draft: {drafts}."
    if results[1] == drafts:
        return Considered(f"{both} One of mine is the draft's: it stays.", draft, doubted=True, sampled=own[:2])
    if results[0] == results[1] != _NOTHING:
        return Considered(f"{both} Both of mine are {results[0]}: it changes.", own[0], doubted=True, sampled=own[:2])
    return Considered(f"{both} All differ: it stays.", draft, doubted=True, sampled=own[:2])
