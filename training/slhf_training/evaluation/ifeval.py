"""IFEval (Zhou et al. 2023, arXiv 2311.07911): instructions that a program can check, and the programs that do."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from pydantic import Field, model_validator

from slhf_training.checks.instructions import InstructedRow, follows, follows_loosely, unchecked
from slhf_training.config import RelativePath, Section
from slhf_training.data.load import read_rows
from slhf_training.errors import DataError, SettingsError
from slhf_training.evaluation.chains import Player
from slhf_training.evaluation.prompts import Prompt
from slhf_training.evaluation.statistics import Bootstrap, Numbers
from slhf_training.instructions import instructed_rows
from slhf_training.types import Message


class IFEvalSettings(Section):
    files: tuple[RelativePath, ...] = ()
    """JSONL(.gz) with `key`, `prompt`, `instruction_id_list` and `kwargs`, as Google publishes them."""
    hub: str | None = None
    """A data set of the same columns, such as google/IFEval."""
    players: tuple[Player, ...] = Field(min_length=1)
    checker: Literal["lm-eval", "exact"] = "lm-eval"
    """`lm-eval`: Google's checkers as lm-evaluation-harness ships them (the extra `ifeval`); `exact`: our own, for the
    kinds of instruction that need no tokenizer or language detector, and IFBench's (instructions.py); other prompts are
    left out.
    """

    @model_validator(mode="after")
    def _some_source(self) -> Self:
        if not self.files and self.hub is None:
            raise ValueError("name at least one of files and hub")
        return self


@dataclass(frozen=True, slots=True)
class Instructed:
    """A prompt that says what can be checked."""

    prompt: Prompt
    row: InstructedRow


@dataclass(frozen=True, slots=True)
class Verdict:
    """Of each instruction; loosely: with markup and the first or last line forgiven."""

    strict: tuple[bool, ...]
    loose: tuple[bool, ...]


Checker = Callable[[Instructed, str], Verdict]
KEPT = ("strict", "loose")


def read_instructed(settings: IFEvalSettings, limit: int | None = None) -> list[Instructed]:
    """The prompts that the checker can check. Raises DataError naming file and line."""
    every = [instructed for path in settings.files for instructed in _of_rows(read_rows(path), str(path))]
    if settings.hub is not None:
        every += _of_rows(enumerate(_hub_rows(settings.hub), start=1), settings.hub)
    if settings.checker == "exact":
        every = [one for one in every if not unchecked(one.row.kinds, one.row.arguments)]
    if not every:
        raise DataError("ifeval: no prompt whose instructions can be checked")
    return every[:limit]


def checker_of(settings: IFEvalSettings) -> Checker:
    """Raises SettingsError where its package or data is missing."""
    return exact if settings.checker == "exact" else lm_eval_checker()


def exact(instructed: Instructed, answer: str) -> Verdict:
    row = instructed.row
    return Verdict(row.followed(answer, follows), row.followed(answer, follows_loosely))


def lm_eval_checker() -> Checker:
    """lm-evaluation-harness's copy of Google's checkers, which is maintained; its language detector is seeded."""
    try:
        import langdetect
        import nltk
        from lm_eval.tasks.ifeval.utils import (
            InputExample,
            test_instruction_following_loose,
            test_instruction_following_strict,
        )

        nltk.data.find("tokenizers/punkt_tab")
    except ModuleNotFoundError as exc:
        raise SettingsError(
            f"ifeval.checker: the package {exc.name} is not installed: "
            "pip install slhf-training[ifeval], or choose exact"
        ) from exc
    except LookupError as exc:
        raise SettingsError("ifeval.checker: nltk has no punkt_tab: python -m nltk.downloader punkt_tab") from exc
    langdetect.DetectorFactory.seed = 0

    def check(instructed: Instructed, answer: str) -> Verdict:
        row = instructed.row
        example = InputExample(0, list(row.kinds), row.prompt, [dict(one) for one in row.arguments])
        strict = test_instruction_following_strict(example, answer).follow_instruction_list
        return Verdict(tuple(strict), tuple(test_instruction_following_loose(example, answer).follow_instruction_list))

    return check


def ifeval_report(verdicts: Sequence[Verdict], bootstrap: Bootstrap) -> dict[str, Any]:
    """Accuracy by prompt (all of its instructions followed) and by instruction, with intervals over prompts."""
    found: dict[str, Any] = {}
    for how in KEPT:
        followed: list[tuple[bool, ...]] = [getattr(verdict, how) for verdict in verdicts]
        whole = bootstrap.mean(np.array([all(one) for one in followed], dtype=np.float64))
        found[f"prompt_{how}"] = whole and whole.row()
        each = bootstrap.of(_ratio([sum(one) for one in followed], [len(one) for one in followed]), len(followed))
        found[f"instruction_{how}"] = each and each.row()
    return found


def followed(verdicts: Sequence[Verdict], how: Literal["strict", "loose"]) -> Numbers:
    """(N,): 1 where a prompt's instructions are all followed."""
    return np.array([all(getattr(verdict, how)) for verdict in verdicts], dtype=np.float64)


def _ratio(above: Sequence[int], below: Sequence[int]) -> Callable[[Numbers], Numbers]:
    return lambda weights: np.asarray((weights @ np.array(above)) / (weights @ np.array(below)), dtype=np.float64)


def _of_rows(rows: Iterator[tuple[int, Mapping[str, Any]]], place: str) -> list[Instructed]:
    found = []
    for number, row in enumerate(instructed_rows(rows, place), start=1):
        name = str(number if row.key is None else row.key)
        found.append(Instructed(Prompt([Message(role="user", content=row.prompt)], name), row))
    return found


def _hub_rows(name: str) -> Iterator[Mapping[str, Any]]:
    import datasets  # late: it takes a second, and JSONL files do not need it

    try:
        yield from datasets.load_dataset(name, split="train")
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as exc:
        raise DataError(f"{name}: {exc}") from exc
