"""Makes lessons for a Follower that thinks before it decides; those are kept whose thoughts lead to what is right."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from slhf.readings import STAYS, Readings
from slhf_training.checks import ReadableCheck
from slhf_training.checks.instructions import InstructionsCheckSettings
from slhf_training.checks.registry import check_of
from slhf_training.checks.tests import UnitTestsSettings
from slhf_training.data import Example
from slhf_training.errors import DataError
from slhf_training.evaluation.prompts import prompt_id
from slhf_training.lessons.listed import listed
from slhf_training.lessons.sampler import Sampler, one_of_each, passed
from slhf_training.lessons.settings import FollowerLessons
from slhf_training.lessons.targets import targets_of
from slhf_training.lessons.thoughts import Considered, considered
from slhf_training.lessons.traced import traced


@dataclass(frozen=True, slots=True)
class Taught:
    """A draft and its target."""

    example: Example
    target: str
    own: tuple[str, ...] = ()
    """The Follower's own answers, which it sees beside the draft."""


def thought(
    source: FollowerLessons,
    drafted: Sequence[Example],
    right: Sequence[bool],
    sampler: Sampler,
    chance: random.Random,
) -> tuple[list[Taught], list[Taught]]:
    """Return lessons of right drafts and of wrong ones: at most one for each prompt, and none where thoughts mislead.

    Up to half of the right drafts are ones that the own answers doubt: these are few, and they teach how many doubts it
    takes to change a draft. Raises DataError, EngineError and SandboxError.
    """
    kept: dict[bool, list[Taught]] = {True: [], False: []}  # by whether the own answers doubt the draft
    changed: list[tuple[Example, Considered]] = []
    found = _considered(drafted, sampler, source.own_answers, chance)
    for example, is_right, one in zip(drafted, right, found, strict=True):
        if one is not None and is_right and one.answer == example.draft:
            kept[one.doubted].append(Taught(example, one.before(None), one.own))
        elif one is not None and not is_right and one.answer != example.draft:
            changed.append((example, one))
    doubted = _one_of_each(kept[True])[: source.right // 2]
    return (
        _one_of_each([*doubted, *kept[False]])[: source.right],
        _one_of_each(_mended(changed, sampler, source.references))[: source.wrong],
    )


def first_looks(source: FollowerLessons, drafted: Sequence[Example]) -> list[Taught]:
    """Return lessons of drafts without own answers, right or wrong: at most one for each prompt."""
    found = []
    for example in drafted:
        draft, read = example.draft or "", _reading(example)
        thoughts = STAYS if read is None else Readings.of(read(draft), []).text
        found.append(Taught(example, Considered(thoughts, draft).before(None)))
    return _one_of_each(found)[: source.first_looks]


def _considered(
    drafted: Sequence[Example], sampler: Sampler, most: int, chance: random.Random
) -> Iterator[Considered | None]:
    """Yield for each draft what the Follower is to think; None where its thoughts come to nothing."""
    asked = one_of_each(drafted) if most else []
    answers = dict(zip((prompt_id(one.chat) for one in asked), sampler.all(asked, refined=False), strict=True))
    for example in drafted:
        draft = example.draft or ""
        own = [text.strip() for text in answers.get(prompt_id(example.chat), ()) if text != example.draft]
        chance.shuffle(own)
        own = own[:most]
        match example.check:
            case UnitTestsSettings() as check:
                yield traced(draft, own, check)
            case InstructionsCheckSettings() as check:
                yield listed(draft, own, check)
            case _ if read := _reading(example):
                yield considered(draft, own, read)
            case None:
                yield Considered(STAYS, draft, own=tuple(own))
            case check:
                kind = f"a check of kind {check.kind}"
                raise DataError(f"{example.source or 'a row'}: nobody can think about {kind}; take thoughts: false")


def _reading(example: Example) -> Callable[[str], str | None] | None:
    """Return the function that reads a result out of an answer; None where the check looks for none."""
    check = None if example.check is None else check_of(example.check)
    return check.read if isinstance(check, ReadableCheck) else None


def _mended(changed: Sequence[tuple[Example, Considered]], sampler: Sampler, references: bool) -> list[Taught]:
    """Return lessons of wrong drafts, with what the thoughts lead to as the target where that passes.

    Where they lead to no text, the target is what any wrong draft becomes.
    """
    said = [(example, found) for example, found in changed if found.answer is not None]
    good = passed([example for example, _ in said], [found.answer or "" for _, found in said])
    lessons = [Taught(e, found.before(found.answer), found.own) for e, found in itertools.compress(said, good)]
    unsaid = [(example, found) for example, found in changed if found.answer is None]
    examples = [example for example, _ in unsaid]
    targets = targets_of(examples, sampler.passing(examples, refined=True), references)
    return lessons + [
        Taught(e, found.before(target), found.own) for (e, found), target in zip(unsaid, targets, strict=True) if target
    ]


def _one_of_each(lessons: Sequence[Taught]) -> list[Taught]:
    """Return the first lesson of each prompt."""
    found: dict[str, Taught] = {}
    for lesson in lessons:
        found.setdefault(prompt_id(lesson.example.chat), lesson)
    return list(found.values())
