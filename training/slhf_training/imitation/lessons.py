"""Lessons from JSONL rows: what asks (as in data.py), a `draft` or none, and the `target`.

A row with a draft teaches the Follower, one without the Leader. `weight` says how much it counts (default 1).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import Field

from slhf_training.data.load import Asked, asked, checked, read_rows
from slhf_training.errors import DataError
from slhf_training.models.prompts import Prompts
from slhf_training.types import Ids, Role


class LessonRow(Asked):
    target: str = Field(min_length=1)
    draft: str | None = None
    weight: float = Field(default=1.0, gt=0)


@dataclass(frozen=True, slots=True)
class Lesson:
    role: Role
    prompt: Ids
    target: Ids
    """With the token that ends it."""
    weight: float = 1.0

    @property
    def ids(self) -> Ids:
        return self.prompt + self.target


def read_lessons(files: Sequence[Path]) -> Iterator[LessonRow]:
    """Raises DataError naming file, line and key."""
    for path in files:
        for number, row in read_rows(path):
            yield checked(LessonRow, asked(row, f"{path}:{number}"), f"{path}:{number}")


def lessons_of(rows: Sequence[LessonRow], prompts: Prompts, end: int, most: int) -> list[Lesson]:
    """Those of at most `most` tokens. Raises DataError where none is left."""
    found = [lesson for row in rows if len((lesson := _lesson(row, prompts, end)).ids) <= most]
    if not found:
        raise DataError(f"lessons: none of {len(rows)} rows fits in {most} tokens")
    return found


def _lesson(row: LessonRow, prompts: Prompts, end: int) -> Lesson:
    target = (*prompts.ids(row.target), end)
    if row.draft is None:
        return Lesson("leader", prompts.leader(row.chat()), target, row.weight)
    return Lesson("follower", prompts.follower(row.chat(), prompts.ids(row.draft)), target, row.weight)
