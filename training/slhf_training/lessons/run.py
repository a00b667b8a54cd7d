"""Makes the rows of (prompt, draft or none, own answers, target) that a configuration describes."""

import itertools
import json
import logging
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.data import Example
from slhf_training.data.load import load
from slhf_training.errors import DataError
from slhf_training.evaluation import fingerprint
from slhf_training.evaluation.answers import Store
from slhf_training.evaluation.generation import Teacher
from slhf_training.evaluation.run import OpenModel, open_model
from slhf_training.lessons.sampler import Sampler, one_of_each, passed
from slhf_training.lessons.settings import FollowerLessons, LeaderLessons, LessonsSettings
from slhf_training.lessons.targets import FENCE, targets_of, worded
from slhf_training.lessons.thinking import Taught, first_looks, thought
from slhf_training.models.bundles import open_bundle

LESSONS, TEXTS = "lessons.jsonl", "texts.jsonl"
_LOG = logging.getLogger(__name__)
Row = dict[str, Any]


def lessons(settings: LessonsSettings, opened: OpenModel | None = None) -> Path:
    """Write the rows and return their file. Samples are kept, so that a run that was killed goes on.

    Raises SettingsError, DataError, EngineError and SandboxError.
    """
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    with Store(settings.output_dir / TEXTS) as store:
        sampler = Sampler(_teacher(settings, opened or open_model), settings.samples, store)
        rows = [row for source in settings.leader for row in _of_leader(source, sampler)]
        for source in settings.follower:
            rows += _of_follower(source, sampler, random.Random(settings.seed))
    if not rows:
        raise DataError("no lesson is left: no draft is right, and no sample or reference is right for a wrong one")
    random.Random(settings.seed).shuffle(rows)
    file = settings.output_dir / LESSONS
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return file


def _teacher(settings: LessonsSettings, opened: OpenModel) -> Teacher | None:
    samples = settings.samples
    if samples is None:
        return None
    bundle = open_bundle("samples.bundle", samples.bundle)
    return Teacher(
        fingerprint(bundle, samples.generation),
        settings.seed,
        lambda: opened("samples", bundle, samples.bundle, samples.generation),
    )


def _of_leader(source: LeaderLessons, sampler: Sampler) -> list[Row]:
    examples = one_of_each(load(source.data))
    targets = targets_of(examples, sampler.passing(examples, refined=False), source.references)
    rows = [_row(e, _fenced(e, target)) for e, target in zip(examples, targets, strict=True) if target]
    _LOG.info("leader, %s: %d lessons of %d prompts", _names(source), len(rows), len(examples))
    return rows


def _of_follower(source: FollowerLessons, sampler: Sampler, chance: random.Random) -> list[Row]:
    drafted = _drafted(source, one_of_each(load(source.data), by_draft=True), sampler)
    chance.shuffle(drafted)
    right = passed(drafted, [example.draft or "" for example in drafted])
    kept, mended = (
        thought(source, drafted, right, sampler, chance) if source.thoughts else _plain(source, drafted, right, sampler)
    )
    _LOG.info("follower, %s: %d right drafts of %d and %d wrong ones of %d have a target", _names(source),
              len(kept), sum(right), len(mended), len(right) - sum(right))  # fmt: skip
    looks = first_looks(source, drafted) if source.first_looks else []
    return [_row(one.example, one.target) | _beside(one) for one in kept + mended + looks]


def _plain(
    source: FollowerLessons, drafted: Sequence[Example], right: Sequence[bool], sampler: Sampler
) -> tuple[list[Taught], list[Taught]]:
    """Return the lessons of right drafts and of wrong ones, at most one for each prompt."""
    kept = one_of_each(itertools.compress(drafted, right))[: source.right]
    wrong = one_of_each(itertools.compress(drafted, (not is_right for is_right in right)))[: source.wrong]
    targets = targets_of(wrong, sampler.passing(wrong, refined=True), source.references)
    return (
        [Taught(one, one.draft or "") for one in kept],
        [Taught(one, target) for one, target in zip(wrong, targets, strict=True) if target],
    )


def _drafted(source: FollowerLessons, examples: Sequence[Example], sampler: Sampler) -> list[Example]:
    """Return the examples with the drafts that the source names."""
    if source.drafts == "given":
        return [example for example in examples if example.draft]
    if source.drafts == "reference":
        return [replace(e, draft=worded(e.reference, e.check)) for e in examples if e.reference]
    written = sampler.all(examples, refined=False)
    return [replace(e, draft=text) for e, texts in zip(examples, written, strict=True) for text in texts]


def _fenced(example: Example, target: str) -> str:
    """Put code into a fence, as chat models write it: the target of a Leader."""
    is_code = isinstance(example.check, UnitTestsSettings) and "```" not in target
    return FENCE.format(code=target) if is_code else target


def _names(source: LeaderLessons | FollowerLessons) -> str:
    return ", ".join(path.name for path in source.data.files)


def _row(example: Example, target: str) -> Row:
    return {"prompt": example.chat, "target": target, "source": example.source}


def _beside(lesson: Taught) -> Row:
    """Return the columns of what only a Follower sees: the draft, and answers of its own."""
    return {"draft": lesson.example.draft} | ({"own": lesson.own} if lesson.own else {})
