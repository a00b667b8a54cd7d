"""What the teachers write, and what is learnt from it. Texts are kept on disk as they come; a killed run goes on."""

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import combinations

import numpy as np
from tqdm import tqdm

from slhf_training.checks.instructions import InstructedRow
from slhf_training.distill.repairing import finished, repaired
from slhf_training.errors import DataError
from slhf_training.evaluation.answers import Answer
from slhf_training.evaluation.edits import edit
from slhf_training.evaluation.generation import Generator, Task
from slhf_training.evaluation.prompts import prompt_id
from slhf_training.evaluation.store import Store
from slhf_training.instructions import row_of
from slhf_training.models.prompts import Prompts
from slhf_training.preference import Preference
from slhf_training.types import Chat, Ids, Probabilities, Role, digest

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Wanted:
    """One answer of a teacher."""

    chat: Chat
    draft: str | None = None
    """What the Follower refines; None: the Leader answers."""
    sample: int = 0
    """Which of several."""


@dataclass(frozen=True, slots=True)
class Drafted:
    chat: Chat
    draft: Answer


@dataclass(frozen=True, slots=True)
class Group:
    """A draft and what can be learnt as the answer to it."""

    drafted: Drafted
    written: tuple[Answer, ...]
    """By the Follower."""
    refined: tuple[Answer, ...]
    """The same, repaired where the chat's instructions are known."""


@dataclass(frozen=True, slots=True)
class Lesson:
    role: Role
    prompt: Ids
    answer: Ids
    shares: tuple[float, ...] = ()
    """Of the target that each token itself is; the rest is the teacher's distribution. Empty: all of it is."""


@dataclass(frozen=True, slots=True)
class Teacher:
    fingerprint: str
    """Of its weights and sampling: what another one wrote is not taken for its own."""
    seed: int
    opened: Callable[[], AbstractContextManager[Generator]]

    def write(self, wanted: Sequence[Wanted], store: Store) -> list[Answer]:
        """All answers; those that the store has are not written again."""
        keys = [digest([self.fingerprint, self.seed, prompt_id(one.chat), one.draft, one.sample]) for one in wanted]
        missing = [place for place, key in enumerate(keys) if store.get(key) is None]
        tasks = [Task(wanted[place].chat, wanted[place].draft, 1, int(keys[place][:8], 16)) for place in missing]
        if missing:
            with self.opened() as generator, tqdm(total=len(missing), unit="answer", dynamic_ncols=True) as bar:

                def keep(task: int, place: int, answer: Answer) -> None:
                    store.append({"key": keys[missing[task]], "text": answer.text, "finish": answer.finish})
                    bar.update()

                generator.write(tasks, keep)
        return [Answer(record["text"], record["finish"]) for key in keys if (record := store.get(key)) is not None]


def lessons_of_leader(
    chats: Sequence[Chat], answers: Sequence[Answer], prompts: Prompts, end: int, most: int
) -> list[Lesson]:
    """Raises DataError where nothing is left."""
    found = [
        Lesson("leader", prompt, ids)
        for chat, answer in zip(chats, answers, strict=True)
        if (ids := ids_of(answer, prompts, end)) and len(prompt := prompts.leader(chat)) <= most
    ]
    return _some(found, len(chats), "leader")


def lessons_of_follower(
    groups: Sequence[Group], chosen: Sequence[int | None], share: float, prompts: Prompts, end: int, most: int
) -> list[Lesson]:
    """One lesson of each draft. `chosen`: the most preferred answer, whose tokens are `share` of the target; None: the
    first is learnt as one of many. What a program changed is all of the target in either case.

    Raises DataError where nothing is left.
    """
    found = []
    for group, best in zip(groups, chosen, strict=True):
        written, answer = group.written[best or 0], group.refined[best or 0]
        ids = ids_of(answer, prompts, end)
        prompt = prompts.follower(group.drafted.chat, prompts.ids(group.drafted.draft.text or ""))
        if ids and len(prompt) <= most:
            least = 0.0 if best is None else share
            shares = shares_of(ids, ids if answer is written else ids_of(written, prompts, end), least)
            found.append(Lesson("follower", prompt, ids, shares))
    return _some(found, len(groups), "follower")


def repair(chat: Chat, answer: Answer, rows: Mapping[str, InstructedRow]) -> Answer:
    """The answer itself where there is nothing to repair."""
    row, text = row_of(chat, rows), answer.text
    if row is None or not text:
        return answer
    better = repaired(row, finished(text) if answer.finish == "length" else text)
    return answer if better == text else Answer(better)


def shares_of(answer: Ids, written: Ids, least: float) -> tuple[float, ...]:
    """1 for what is not as it was written, and for what follows a gap; the rest has the least."""
    shares = [1.0] * len(answer)
    had, has = 0, 0
    for at, place, size in SequenceMatcher(None, written, answer, autojunk=False).get_matching_blocks():
        is_gap = place == has and at > had
        shares[place + is_gap : place + size] = [least] * (size - is_gap)
        had, has = at + size, place + size
    return tuple(shares)


def ids_of(answer: Answer, prompts: Prompts, end: int) -> Ids:
    """As a model would have written it: with its end, unless it was cut. Empty where nothing was written."""
    if answer.text is None or answer.finish in ("kept", "refused"):
        return ()
    ids = prompts.ids(answer.text)
    return (*ids, end) if answer.finish == "stop" else ids


def choose(groups: Sequence[Group], preference: Preference, edit_cost: float = 0.0) -> list[int | None]:
    """Of each draft's refinements the one with the highest mean preference over the others, less `edit_cost` times the
    share of its words that are not the draft's.

    The draft itself is none of them: that it is best for one prompt in ten teaches the Follower to copy everywhere
    (docs/experiments/repairs-and-choice.md). None: the source abstains from all, or there is nothing to compare.
    """
    chats: list[Chat] = []
    first: list[str] = []
    second: list[str] = []
    places: list[tuple[int, int, int]] = []  # the group, and two of its answers
    for number, group in enumerate(groups):
        for a, b in combinations(range(len(group.refined)), 2):
            one, two = group.refined[a].text, group.refined[b].text
            if one is not None and two is not None:
                chats.append(group.drafted.chat)
                first.append(one)
                second.append(two)
                places.append((number, a, b))
    tables = [np.full((len(group.refined),) * 2, np.nan) for group in groups]
    for (number, a, b), p in zip(places, preference(chats, first, second), strict=True):
        tables[number][a, b], tables[number][b, a] = p, 1 - p
    return [_best(table, edit_cost * _edits(group)) for group, table in zip(groups, tables, strict=True)]


def _best(table: Probabilities, costs: Probabilities) -> int | None:
    judged = ~np.isnan(table)
    means = np.where(judged, table, 0).sum(axis=1) / judged.sum(axis=1).clip(min=1)
    return int((means - costs).argmax()) if judged.any() else None


def _edits(group: Group) -> Probabilities:
    """Of each refinement, (S,)."""
    draft = group.drafted.draft.text or ""
    return np.array([edit(draft, answer.text or "").ratio for answer in group.refined], dtype=np.float64)


def _some(found: list[Lesson], asked: int, role: Role) -> list[Lesson]:
    if not found:
        raise DataError(f"{role}: none of {asked} prompts fits max_prompt_tokens and was answered")
    if asked > len(found):
        _LOG.warning(
            "%s: %d of %d were not answered or need more tokens, and were dropped", role, asked - len(found), asked
        )
    return found
