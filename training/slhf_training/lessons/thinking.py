"""Lessons of a Follower that thinks before it decides: those where its thoughts lead to what is right."""

import itertools
import random
from collections.abc import Callable, Iterator, Sequence

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
from slhf_training.lessons.thoughts import Considered, Target, considered
from slhf_training.lessons.traced import traced

Taught = tuple[Example, Target]
"""A draft and its target."""


def thought(
    source: FollowerLessons,
    drafted: Sequence[Example],
    right: Sequence[bool],
    sampler: Sampler,
    chance: random.Random,
) -> tuple[list[Taught], list[Taught]]:
    """Of the right drafts and of the wrong ones: at most one of a prompt, and none where thoughts do not tell.

    Of the right drafts those come first that the first own answer doubts, up to a half: they are few, and what is to be
    learnt is not to trust one doubt. Raises DataError, EngineError and SandboxError.
    """
    kept: dict[bool, list[Taught]] = {True: [], False: []}  # by doubted
    changed: list[tuple[Example, Considered]] = []
    for example, is_right, found in zip(drafted, right, _considered(drafted, sampler, chance), strict=True):
        if found is not None and is_right and found.answer == example.draft:
            kept[found.doubted].append((example, found.before(None)))
        elif found is not None and not is_right and found.answer != example.draft:
            changed.append((example, found))
    doubted = _one_of_each(kept[True])[: source.right // 2]
    return (
        _one_of_each([*doubted, *kept[False]])[: source.right],
        _one_of_each(_mended(changed, sampler, source.references))[: source.wrong],
    )


def _considered(drafted: Sequence[Example], sampler: Sampler, chance: random.Random) -> Iterator[Considered | None]:
    """Of each draft what the Follower is to think; None where that comes to nothing."""
    solved = one_of_each(one for one in drafted if _reading(one) or isinstance(one.check, UnitTestsSettings))
    answers = dict(zip((prompt_id(one.chat) for one in solved), sampler.all(solved, refined=False), strict=True))
    for example in drafted:
        draft = example.draft or ""
        own = [text.strip() for text in answers.get(prompt_id(example.chat), ()) if text != example.draft]
        chance.shuffle(own)
        match example.check:
            case UnitTestsSettings() as check:
                yield traced(draft, own, check)
            case InstructionsCheckSettings() as check:
                yield listed(draft, check)
            case _ if read := _reading(example):
                yield considered(draft, own, read)
            case None:
                yield Considered("It stays.", draft, doubted=False)
            case check:
                kind = f"a check of kind {check.kind}"
                raise DataError(f"{example.source or 'a row'}: nobody can think about {kind}; take thoughts: false")


def _reading(example: Example) -> Callable[[str], str | None] | None:
    """How a result is read out of an answer; None: the check looks for none."""
    check = None if example.check is None else check_of(example.check)
    return check.read if isinstance(check, ReadableCheck) else None


def _mended(changed: Sequence[tuple[Example, Considered]], sampler: Sampler, references: bool) -> list[Taught]:
    """What thoughts lead to, where it passes; where they do not say, what any wrong draft becomes."""
    said = [(example, found) for example, found in changed if found.answer is not None]
    good = passed([example for example, _ in said], [found.answer or "" for _, found in said])
    lessons = [(example, found.before(found.answer or "")) for example, found in itertools.compress(said, good)]
    unsaid = [(example, found) for example, found in changed if found.answer is None]
    examples = [example for example, _ in unsaid]
    targets = targets_of(examples, sampler.passing(examples, refined=True), references)
    return lessons + [(e, found.before(target)) for (e, found), target in zip(unsaid, targets, strict=True) if target]


def _one_of_each(lessons: Sequence[Taught]) -> list[Taught]:
    """The first of each prompt."""
    found: dict[str, Taught] = {}
    for example, target in lessons:
        found.setdefault(prompt_id(example.chat), (example, target))
    return list(found.values())
