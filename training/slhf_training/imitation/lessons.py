"""Lessons from JSONL rows: what asks (as in data.py), a `draft` or none, and the `target`.

A row with a draft teaches the Follower, one without the Leader. `weight` says how much it counts (default 1), and
`sampled` which parts of the target, from character to character, are samples of the model that learns.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from slhf_training.data import Asked, asked, checked, read_rows
from slhf_training.errors import DataError
from slhf_training.prompts import Prompts
from slhf_training.roles import Role
from slhf_training.rollout import Ids


class LessonRow(Asked):
    target: str = Field(min_length=1)
    draft: str | None = None
    weight: float = Field(default=1.0, gt=0)
    sampled: tuple[tuple[int, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Lesson:
    role: Role
    prompt: Ids
    target: Ids
    """With the token that ends it."""
    weights: tuple[float, ...] = ()
    """Of each token of the target."""

    @property
    def ids(self) -> Ids:
        return self.prompt + self.target


def read_lessons(files: Sequence[Path]) -> Iterator[LessonRow]:
    """Raises DataError naming file, line and key."""
    for path in files:
        for number, row in read_rows(path):
            yield checked(LessonRow, asked(row, f"{path}:{number}"), f"{path}:{number}")


def lessons_of(rows: Sequence[LessonRow], prompts: Prompts, end: int, most: int, sampled: float = 1) -> list[Lesson]:
    """Those of at most `most` tokens. `sampled`: the weight of a token that the model itself has written, where that of
    others is 1. Raises DataError where none is left."""
    found = [lesson for row in rows if len((lesson := _lesson(row, prompts, end, sampled)).ids) <= most]
    if not found:
        raise DataError(f"lessons: none of {len(rows)} rows fits in {most} tokens")
    return found


def _lesson(row: LessonRow, prompts: Prompts, end: int, sampled: float) -> Lesson:
    target = (*prompts.ids(row.target), end)
    weights = [row.weight] * len(target)
    for start, stop in row.sampled:
        first, last = (len(prompts.ids(row.target[:place])) for place in (start, stop))  # but for what grows together
        weights[first:last] = [row.weight * sampled] * (last - first)
    if row.draft is None:
        return Lesson("leader", prompts.leader(row.chat()), target, tuple(weights))
    return Lesson("follower", prompts.follower(row.chat(), prompts.ids(row.draft)), target, tuple(weights))
