"""From the configuration to rows of (prompt, draft or none, target)."""

import itertools
import json
import logging
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slhf_training.bundles import fingerprint, open_bundle
from slhf_training.chats import Message
from slhf_training.checks import ReadableCheck
from slhf_training.checks.batch import passed_all
from slhf_training.checks.registry import check_of
from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.data import load
from slhf_training.distillation.lessons import Teacher, Wanted
from slhf_training.errors import DataError
from slhf_training.evaluation.answers import Answer
from slhf_training.evaluation.prompts import prompt_id
from slhf_training.evaluation.run import OpenModel, open_model
from slhf_training.evaluation.store import Store
from slhf_training.examples import Example
from slhf_training.lessons.settings import FollowerLessons, LeaderLessons, LessonsSettings, Samples
from slhf_training.lessons.targets import FENCE, nearest, worded
from slhf_training.lessons.thoughts import considered

LESSONS, TEXTS = "lessons.jsonl", "texts.jsonl"
_LOG = logging.getLogger(__name__)
Row = dict[str, Any]


class Sampler:
    """Answers of the model that the settings name; none where they name none."""

    def __init__(self, teacher: Teacher | None, samples: Samples | None, store: Store) -> None:
        self._teacher, self._store = teacher, store
        self._count = samples.count if samples else 0
        self._turns = [Message(role=turn.role, content=turn.content) for turn in samples.turns] if samples else []

    def passing(self, examples: Sequence[Example], *, refined: bool) -> list[list[str]]:
        """Of each example the answers (to its draft, if `refined`) that came to their end and pass."""
        written = self.all(examples, refined=refined)
        asked = [example for example, texts in zip(examples, written, strict=True) for _ in texts]
        right = iter(_passed(asked, [text for texts in written for text in texts]))
        return [[text for text in texts if next(right)] for texts in written]

    def all(self, examples: Sequence[Example], *, refined: bool) -> list[list[str]]:
        if self._teacher is None:
            return [[] for _ in examples]
        numbers = range(self._count)
        asked = [(e.chat, e.draft) if refined else ([*self._turns, *e.chat], None) for e in examples]
        wanted = [Wanted(chat, draft, number) for chat, draft in asked for number in numbers]
        answers = self._teacher.write(wanted, self._store)
        texts = [answers[i : i + self._count] for i in range(0, len(answers), self._count)]
        return [list(dict.fromkeys(text for answer in of if (text := _finished(answer)))) for of in texts]


def lessons(settings: LessonsSettings, opened: OpenModel | None = None) -> Path:
    """Writes the rows, and returns their file. What was sampled is kept, and the next run goes on.

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
    examples = _one_of_each(load(source.data))
    targets = _targets(examples, sampler.passing(examples, refined=False), source.references)
    rows = [_row(e, None, _fenced(e, target)) for e, target in zip(examples, targets, strict=True) if target]
    _LOG.info("leader, %s: %d lessons of %d prompts", _names(source), len(rows), len(examples))
    return rows


def _of_follower(source: FollowerLessons, sampler: Sampler, chance: random.Random) -> list[Row]:
    drafted = _drafted(source, _one_of_each(load(source.data), by_draft=True), sampler)
    chance.shuffle(drafted)
    passed = _passed(drafted, [example.draft or "" for example in drafted])
    if source.thoughts:
        return _thought(source, drafted, passed, sampler, chance)
    right = _one_of_each(itertools.compress(drafted, passed))[: source.right]
    wrong = _one_of_each(itertools.compress(drafted, (not is_right for is_right in passed)))[: source.wrong]
    rows = [_row(one, one.draft, one.draft or "") for one in right]
    targets = _targets(wrong, sampler.passing(wrong, refined=True), source.references)
    rows += [_row(one, one.draft, target) for one, target in zip(wrong, targets, strict=True) if target]
    _LOG.info("follower, %s: %d right drafts, %d of %d wrong ones have a target", _names(source), len(right),
              len(rows) - len(right), len(wrong))  # fmt: skip
    return rows


def _thought(
    source: FollowerLessons, drafted: Sequence[Example], passed: Sequence[bool], sampler: Sampler, chance: random.Random
) -> list[Row]:
    """Where what the Follower thinks leads to a right answer: nothing is learnt of thoughts that do not tell.

    At most one lesson of a prompt keeps a right draft, and one mends a wrong one. Of the right drafts those come first
    that the first own answer doubts, up to a half: they are few, and what is to be learnt is not to trust one doubt.
    """
    kept: dict[bool, list[tuple[Example, str]]] = {True: [], False: []}  # by doubted
    mended: list[tuple[Example, str]] = []
    asked = _one_of_each(drafted)
    written = dict(zip((prompt_id(one.chat) for one in asked), sampler.all(asked, refined=False), strict=True))
    for example, is_right in zip(drafted, passed, strict=True):
        own = [text.strip() for text in written[prompt_id(example.chat)] if text != example.draft]
        chance.shuffle(own)
        found = considered(example.draft or "", own, _reader(source, example)) if own else None
        if found is None:
            continue
        if is_right and found.answer == example.draft:
            kept[found.doubted].append((example, found.target))
        elif not is_right and found.answer != example.draft and _passed([example], [found.answer])[0]:
            mended.append((example, found.target))
    doubted = _one_lesson_of_each(kept[True])[: source.right // 2]
    right = _one_lesson_of_each([*doubted, *kept[False]])[: source.right]
    wrong = _one_lesson_of_each(mended)[: source.wrong]
    _LOG.info("follower, %s, with thoughts: %d right drafts, %d of them doubted, and %d wrong ones, of %d",
              _names(source), len(right), len(doubted), len(wrong), len(drafted))  # fmt: skip
    return [_row(example, example.draft, target) for example, target in right + wrong]


def _reader(source: FollowerLessons, example: Example) -> Callable[[str], str | None]:
    check = None if example.check is None else check_of(example.check)
    if not isinstance(check, ReadableCheck):
        kind = "no check" if example.check is None else f"a check of kind {example.check.kind}"
        raise DataError(f"{_names(source)}: thoughts need checks that look for a result, and there is {kind}")
    return check.read


def _one_lesson_of_each(lessons: Sequence[tuple[Example, str]]) -> list[tuple[Example, str]]:
    """The first of each prompt."""
    found: dict[str, tuple[Example, str]] = {}
    for example, target in lessons:
        found.setdefault(prompt_id(example.chat), (example, target))
    return list(found.values())


def _drafted(source: FollowerLessons, examples: Sequence[Example], sampler: Sampler) -> list[Example]:
    """The examples with the drafts that the source names."""
    if source.drafts == "given":
        return [example for example in examples if example.draft]
    if source.drafts == "reference":
        return [replace(e, draft=worded(e.reference, e.check)) for e in examples if e.reference]
    written = sampler.all(examples, refined=False)
    return [replace(e, draft=text) for e, texts in zip(examples, written, strict=True) for text in texts]


def _targets(examples: Sequence[Example], passing: Sequence[Sequence[str]], references: bool) -> list[str | None]:
    """The sample that passes and keeps most of the draft, else the reference if that passes, else None."""
    known = [worded(e.reference, e.check) if references and e.reference else "" for e in examples]
    good = _passed(examples, known)
    return [
        nearest(e.draft, texts) if texts else (text if is_good else None)
        for e, texts, text, is_good in zip(examples, passing, known, good, strict=True)
    ]


def _passed(examples: Sequence[Example], texts: Sequence[str]) -> list[bool]:
    """Whether each text passes its example's check; without a check it does if it is not empty."""
    pairs = [(check_of(e.check), text) for e, text in zip(examples, texts, strict=True) if e.check is not None]
    found = iter(passed_all([check for check, _ in pairs], [text for _, text in pairs]))
    return [bool(text) if e.check is None else next(found) for e, text in zip(examples, texts, strict=True)]


def _one_of_each(examples: Iterable[Example], *, by_draft: bool = False) -> list[Example]:
    """The first of each prompt, or of each prompt and draft."""
    found: dict[tuple[str, str | None], Example] = {}
    for example in examples:
        found.setdefault((prompt_id(example.chat), example.draft if by_draft else None), example)
    return list(found.values())


def _fenced(example: Example, target: str) -> str:
    """A Leader's code stands in a fence, as chat models write it."""
    is_code = isinstance(example.check, UnitTestsSettings) and "```" not in target
    return FENCE.format(code=target) if is_code else target


def _finished(answer: Answer) -> str | None:
    return answer.text if answer.finish == "stop" else None


def _row(example: Example, draft: str | None, target: str) -> Row:
    row: Row = {"prompt": example.chat, "target": target, "source": example.source}
    return row if draft is None else row | {"draft": draft}


def _names(source: LeaderLessons | FollowerLessons) -> str:
    return ", ".join(path.name for path in source.data.files)
