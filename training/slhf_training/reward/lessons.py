"""What a head learns from examples: pairs of answers, or answers with targets."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

from slhf_training.data.examples import Example, Pair
from slhf_training.data.load import split
from slhf_training.errors import DataError
from slhf_training.reward.settings import HeadSettings
from slhf_training.types import Chat


@dataclass(frozen=True, slots=True)
class Lesson:
    """The same number of answers for each chat: (chosen, rejected), or one with its target."""

    chat: Chat
    answers: tuple[str, ...]
    target: float = 0.0


def lessons(examples: Sequence[Example], settings: HeadSettings) -> list[Lesson]:
    """Raises DataError where the examples hold none."""
    if settings.attribute is None:
        pairs = [example for example in examples if example.pair]
    else:
        pairs = ranked(examples, settings.attribute)
    if settings.loss == "regression":
        found = scored(examples, settings.attribute or "")
    else:
        found = [Lesson(one.chat, (one.pair.chosen, one.pair.rejected)) for one in pairs if one.pair]
    if not found:
        raise DataError(
            f"none of {len(examples)} examples has what {settings.loss} of {settings.attribute or 'pairs'} needs"
        )
    return found


def scored(examples: Sequence[Example], attribute: str) -> list[Lesson]:
    """Answers that have a score for the attribute."""
    return [
        Lesson(example.chat, (example.scores.answer,), example.scores.values[attribute])
        for example in examples
        if example.scores and attribute in example.scores.values
    ]


def ranked(examples: Sequence[Example], attribute: str) -> list[Example]:
    """All pairs of answers to one chat whose scores differ, the higher one as chosen."""
    by_chat: dict[str, list[Lesson]] = defaultdict(list)
    for lesson in scored(examples, attribute):
        by_chat[repr([(message["role"], message["content"]) for message in lesson.chat])].append(lesson)
    found = []
    for answers in by_chat.values():
        for one, other in combinations(answers, 2):
            if one.target != other.target:
                better, worse = sorted((one, other), key=lambda lesson: -lesson.target)
                found.append(Example(one.chat, Pair(better.answers[0], worse.answers[0]), source=attribute))
    return found


def both_sides(
    examples: Sequence[Example], settings: HeadSettings, share: float, seed: int, name: str
) -> tuple[list[Lesson], list[Lesson]]:
    """(train, validation), split by prompt. Raises DataError where one of them is empty."""
    train, validation = split(examples, share, seed)
    if not train or not validation:
        raise DataError(f"heads.{name}: {len(train)} examples to train and {len(validation)} to validate are too few")
    return lessons(train, settings), lessons(validation, settings)
