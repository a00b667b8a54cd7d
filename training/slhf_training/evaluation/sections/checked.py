"""Tasks whose answers a program can check: right before, right after, mended, broken; and what else the tokens buy."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field, model_validator

from slhf_training.config import Section
from slhf_training.evaluation.answers import GIVEN, Chain, Slot, refined
from slhf_training.evaluation.mending import (
    Marked,
    Marks,
    against,
    draft_row,
    pages,
    picture_of,
    round_row,
    summary_of,
    two_answers,
)
from slhf_training.evaluation.prompts import Case, Prompt, TaskSettings, read_cases
from slhf_training.evaluation.sections import Measurement
from slhf_training.evaluation.statistics import Numbers
from slhf_training.evaluation.study import Figures, SectionData


class PoolSettings(Section):
    """Rows of several tasks as one."""

    tasks: tuple[str, ...] = Field(min_length=1)
    models: tuple[str, ...] = ()
    """Only the drafts of these; empty: all."""


class CheckedTasksSettings(Section):
    tasks: dict[str, TaskSettings] = Field(min_length=1)
    followers: tuple[str, ...] = Field(min_length=1)
    """Each refines every draft of every task. The untrained base among them shows what the prompt alone does."""
    rounds: int = Field(default=3, gt=0)
    rounds_rows: int = Field(default=100, gt=0)
    """How many rows of each task, the first of its list, get more than one round."""
    two_answers: tuple[str, ...] = ()
    """Leaders that also answer every prompt twice: what as many tokens buy without refinement. Of the two the
    configuration's `preference` chooses where it speaks, else the first stands."""
    votes: int = Field(default=2, ge=2)
    """How many answers these write. With more than two, all of them vote where a check reads a result: as many as cost
    a refinement's tokens show whether it is worth more than self-consistency (Wang et al., ICLR 2023)."""
    pooled: dict[str, PoolSettings] = {}

    @model_validator(mode="after")
    def _pools_are_of_tasks(self) -> Self:
        for name, pool in self.pooled.items():
            if bad := next((task for task in pool.tasks if task not in self.tasks), None):
                raise ValueError(f"pooled.{name}: {bad!r} is none of the tasks {', '.join(self.tasks)}")
            if len({self.tasks[task].leaders for task in pool.tasks}) > 1:
                raise ValueError(f"pooled.{name}: its tasks do not have the same leaders")
            if name in self.tasks:
                raise ValueError(f"pooled.{name}: a task has this name")
        return self


class Checked(Measurement[CheckedTasksSettings]):
    name: ClassVar[str] = "checked"
    place: ClassVar[int] = 0
    settings: ClassVar[type[Section]] = CheckedTasksSettings
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, how: CheckedTasksSettings, main: Mapping[str, Prompt], limit: int | None) -> None:
        self._cases = {name: read_cases(f"checked.tasks.{name}", task, limit) for name, task in how.tasks.items()}
        cases = [case for task in self._cases.values() for case in task]
        prompts = {prompt.id: prompt for case in cases for prompt in (case.prompt, case.drafted)}
        super().__init__(how, prompts, limit)

    @classmethod
    def chains(cls, how: CheckedTasksSettings) -> list[Chain]:
        leaders = {leader for task in how.tasks.values() for leader in task.leaders}
        return [(one, two) for one in (*sorted(leaders), *how.followers) for two in how.followers]

    @classmethod
    def sampled(cls, how: CheckedTasksSettings) -> Mapping[str, int]:
        return dict.fromkeys(how.two_answers, how.votes)

    def given(self) -> Mapping[str, str]:
        return {prompt.id: prompt.draft for prompt in self.prompts.values() if prompt.draft is not None}

    def wanted(self) -> list[Slot]:
        found = [
            case.slot(refined(writer, follower, length))
            for name, task in self.how.tasks.items()
            for length in range(self.how.rounds + 1)
            for case in self._reaching(self._cases[name], length)
            for writer in task.writers
            for follower in self.how.followers
        ]
        cases = [case for task in self._cases.values() for case in task]
        votes = range(self.how.votes)
        more = [Slot((leader,), case.prompt.id, n) for leader in self.how.two_answers for case in cases for n in votes]
        return [*found, *more]

    def _reaching(self, cases: Sequence[Case], rounds: int) -> Sequence[Case]:
        """The cases that get so many rounds."""
        return cases if rounds < 2 else [case for case in cases if case.number < self.how.rounds_rows]

    def figures(self, study: SectionData) -> Figures:
        marks = Marks(study.answers)
        tasks = {
            name: self._group(study, marks, task.writers, self._cases[name]) for name, task in self.how.tasks.items()
        }
        pooled = {
            name: self._group(study, marks, self.how.tasks[pool.tasks[0]].writers, self._pool(pool))
            for name, pool in self.how.pooled.items()
        }
        return {"rounds_rows": self.how.rounds_rows, "tasks": tasks, "pooled": pooled}

    def _pool(self, pool: PoolSettings) -> list[Case]:
        cases = [case for task in pool.tasks for case in self._cases[task]]
        return [case for case in cases if not pool.models or case.model in pool.models]

    def _group(self, study: SectionData, marks: Marks, writers: Sequence[str], cases: Sequence[Case]) -> Figures:
        """A task, or a pool of tasks."""
        votes = self.how.votes
        instead = {leader: two_answers(study, marks, cases, leader, votes) for leader in self.how.two_answers}
        chosen = {leader: right for leader, (_, right) in instead.items()}
        return {
            "rows": len(cases),
            "prompts": len({case.prompt.id for case in cases}),
            "players": [
                self._player(study, marks, cases, (writer, follower), chosen)
                for writer in writers
                for follower in self.how.followers
            ],
            "two_answers": [row for row, _ in instead.values()],
        }

    def _player(
        self, study: SectionData, marks: Marks, cases: Sequence[Case], chain: Chain, chosen: Mapping[str, Numbers]
    ) -> Figures:
        """The figures of one writer's drafts, refined by one Follower."""
        writer, follower = chain
        beside = next((leader for leader in (writer, follower) if leader in chosen), None)
        models = sorted({case.model for case in cases}) if writer == GIVEN else []
        groups = {model: np.array([case.model == model for case in cases]) for model in models if len(models) > 1}

        def row(kept: Marked) -> Figures:
            some = [case for case, is_kept in zip(cases, kept, strict=True) if is_kept]
            rounds = [
                round_row(study, marks, rows, refined(writer, follower, length))
                for length in range(1, self.how.rounds + 1)
                if (rows := self._reaching(some, length))
            ]
            found = {**draft_row(study, marks, some, writer), "rounds": rounds}
            if beside is not None:
                found["against_two_answers"] = against(study, marks, some, chain, beside, chosen[beside][kept])
            return found

        drafted = ~np.isnan(marks.of(cases, chain[:1]))
        by_model = {model: row(drafted & group) for model, group in groups.items()}
        return {"drafts": writer, "follower": follower, **row(drafted), "by_model": by_model}

    @staticmethod
    def summary(figures: Mapping[str, Any]) -> Iterator[str]:
        return summary_of(figures)

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        return pages(figures)

    @staticmethod
    def picture(figures: Mapping[str, Any]) -> Figure:
        return picture_of(figures)
