"""What a Follower thinks before it answers: it works the question out itself, and again where the draft says otherwise.

Two answers of its own that agree with each other and not with the draft speak against the draft, and the first of them
takes its place; one that agrees with the draft, or three that all differ, leave the draft as it is. That is
self-consistency (Wang et al., ICLR 2023) with the draft as one of the voices, within one pass: nobody samples, votes or
judges at run time. One answer alone would break every right draft that the model itself gets wrong.

Thoughts stand in `<think>...</think>`, which the server takes out of an answer. Where the draft stays, nothing follows
them: the server puts the draft there, to the letter, which a copy of many tokens would not always be.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

Span = tuple[int, int]
_THOUGHTS = "<think>\n{thoughts}\n</think>"
_NOTHING = "none"
MOST_OWN = 3
"""Answers of its own that a Follower writes at most; a second and a third only where those before decide nothing."""


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
    """Parts of the thoughts, in their order, that the model would write as they are: the first own answer. Later ones
    and programs it would not: left to itself it copies the first one or the draft, and has to learn to write as if
    those were not there."""

    def before(self, answer: str | None) -> Target:
        """The thoughts, and then this answer; None: nothing, and so the draft."""
        spans, end = [], 0
        thoughts = _THOUGHTS.format(thoughts=self.thoughts)
        text = thoughts if answer is None else f"{thoughts}\n{answer}"
        for part in self.sampled:
            start = text.index(part, end)
            end = start + len(part)
            spans.append((start, end))
        return Target(text, tuple(spans))


def considered(draft: str, own: Sequence[str], read: Callable[[str], str | None]) -> Considered | None:
    """`own`: independent answers to the question; None where they are too few to decide."""
    drafts = read(draft) or _NOTHING
    results: list[str] = []
    thoughts: list[str] = []
    for answer in own[:MOST_OWN]:
        results.append(read(answer) or _NOTHING)
        said, changes = _verdict(results, drafts)
        thoughts.append(f"{answer}\nMine: {', '.join(results)}. The draft: {drafts}. {said}")
        if changes is not None:
            chosen = own[results.index(results[-1])] if changes else draft
            return Considered("\n".join(thoughts), chosen, doubted=len(results) > 1, sampled=own[:1])
    return None


def _verdict(results: Sequence[str], drafts: str) -> tuple[str, bool | None]:
    """In words, and whether the draft changes; None: not known before the next answer."""
    last = results[-1]
    if last == drafts:
        return "The same: it stays.", False
    if last in results[:-1] and last != _NOTHING:
        return f"Two of mine are {last}: it changes.", True
    if len(results) == MOST_OWN:
        return "All differ: it stays.", False
    return "Once more:", None
