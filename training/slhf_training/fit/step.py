"""One step's chats and given drafts, played with a rollout and a judge: the algorithms' StepContext."""

import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import numpy as np

from slhf_training.data import Example
from slhf_training.errors import DataError
from slhf_training.fit import DraftAnswers
from slhf_training.fit.algorithms import Completion, penalised
from slhf_training.fit.streaming import Coming, as_they_come, ready, then, written
from slhf_training.models.prompts import Prompts
from slhf_training.preference import Preference, Verifying
from slhf_training.rollout import Rollout, Streaming
from slhf_training.types import Chat, Ids, Player, Probabilities, Sample

Asked = tuple[int, Completion | None]
"""The number of a chat, and the draft that is to be refined."""
Phase = Literal["rollout", "judge", "reference", "forward_backward", "update"]


class Clock:
    """Seconds by phase since the last `read`. Work that a GPU has only queued counts where it is waited for."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = defaultdict(float)

    @contextmanager
    def __call__(self, phase: Phase) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._seconds[phase] += time.perf_counter() - start

    def read(self) -> dict[str, float]:
        seconds, self._seconds = dict(self._seconds), defaultdict(float)
        return seconds


@dataclass(frozen=True, slots=True)
class Draft:
    number: int
    """Tells its chat apart from all others, those of the training data too."""
    chat: Chat
    text: str
    ids: Ids


class DraftPool:
    def __init__(self, drafts: Sequence[Draft], per_step: int, seed: int, process: int = 0, processes: int = 1) -> None:
        """`per_step`: of this process. Raises DataError where there are not enough for one step of all processes."""
        self._all = per_step * processes
        if len(drafts) < self._all:
            several = f" of {processes} processes" if processes > 1 else ""
            raise DataError(f"drafts: {len(drafts)} are fewer than the {self._all} of one step{several}")
        self._drafts, self._seed = drafts, seed
        self._ours = slice(process * per_step, (process + 1) * per_step)

    def at(self, step: int) -> list[Draft]:
        """This process's part of what all draw together, without replacement; a run that is resumed draws the same.

        Two processes with one draft would answer it alike, and each would be the other's baseline.
        """
        chance = np.random.default_rng([self._seed, step])
        chosen = chance.choice(len(self._drafts), self._all, replace=False)
        return [self._drafts[i] for i in chosen[self._ours]]


def drafts_of(
    examples: Sequence[Example], prompts: Prompts, first_number: int, most: int, which: DraftAnswers = "all"
) -> list[Draft]:
    """The examples' answers, or the rejected ones alone, that have, with their chat, at most so many tokens."""
    found: list[Draft] = []
    for example in examples:
        asked = len(prompts.leader(example.chat))
        rejected = (example.pair.rejected,) if example.pair else ()
        for text in example.answers if which == "all" else rejected:
            ids = prompts.ids(text)
            if ids and asked + len(ids) <= most:
                found.append(Draft(first_number + len(found), example.chat, text, ids))
    return found


@dataclass(frozen=True, slots=True)
class Environment:
    """What stays the same from step to step."""

    prompts: Prompts
    rollout: Rollout
    preference: Preference
    clock: Clock
    eos_penalty: float
    seed: int


class ChatStepContext:
    def __init__(
        self,
        environment: Environment,
        chats: Sequence[Chat],
        numbers: Sequence[int],
        step: int,
        drafts: Sequence[Draft] = (),
    ) -> None:
        """`numbers`: each chat's place in the data; it and the step fix the random numbers of its answers."""
        self._environment = environment
        self._numbers, self._own = numbers, frozenset(numbers)
        self._drafts = drafts
        self._chats = dict(zip(numbers, chats, strict=True)) | {draft.number: draft.chat for draft in drafts}
        self._step = step
        self.chats = len(numbers)
        """Chats of the training data; answers and judgements after theirs belong to given drafts."""
        self.answered: list[tuple[Player, Completion]] = []
        self.judged: list[Probabilities] = []
        """The judge's own words, without the penalty for unfinished answers, in the order of the questions."""
        self._tokenizing = threading.Lock()  # a rollout that streams brings its answers in threads of its own

    def answer(
        self, player: Player, slot: int, drafts: Sequence[Completion] | None = None, each: int = 1
    ) -> list[Completion]:
        if drafts is None:
            asked: list[Asked] = [(number, None) for number in self._numbers for _ in range(each)]
        else:
            asked = [(draft.chat, draft) for draft in drafts for _ in range(each)]
        again: Counter[int] = Counter()
        seeds = []
        for number, _ in asked:
            seeds.append(self._seed(number, slot, again[number]))
            again[number] += 1
        streams = isinstance(self._environment.rollout, Streaming)
        found = (self._streamed if streams else self._sampled)(player, asked, seeds)
        self.answered += [(player, answer) for answer in found]
        return found

    def _sampled(self, player: Player, asked: Sequence[Asked], seeds: Sequence[int]) -> list[Completion]:
        """All in one batch."""
        prompts = [self._prompt(number, draft) for number, draft in asked]
        with self._environment.clock("rollout"):
            samples = self._environment.rollout.sample(prompts, player, seeds)
        return [
            self._completion(number, prompt, sample)
            for (number, _), prompt, sample in zip(asked, prompts, samples, strict=True)
        ]

    def _streamed(self, player: Player, asked: Sequence[Asked], seeds: Sequence[int]) -> list[Completion]:
        """Each asked for as soon as its draft is there, and none waited for."""
        rollout = self._environment.rollout
        assert isinstance(rollout, Streaming)
        with self._environment.clock("rollout"):
            ask = rollout.asking(player)

        def coming(place: int, number: int, draft: Completion | None, seed: int) -> Completion:
            def begin(draft: Completion | None) -> Future[Completion]:
                prompt = self._prompt(number, draft)
                return then(ask(place, prompt, seed), lambda sample: ready(self._completion(number, prompt, sample)))

            return Coming(number, begin(None) if draft is None else then(written(draft), begin))

        return [coming(at, *one, seed) for at, (one, seed) in enumerate(zip(asked, seeds, strict=True))]

    def _prompt(self, number: int, draft: Completion | None) -> Ids:
        with self._tokenizing:
            prompts = self._environment.prompts
            if draft is None:
                return prompts.leader(self._chats[number])
            return prompts.follower(self._chats[number], draft.sample.ids)

    def _completion(self, number: int, prompt: Ids, sample: Sample) -> Completion:
        with self._tokenizing:
            return Completion(number, prompt, sample, self._environment.prompts.text(sample.ids))

    def given(self) -> list[Completion]:
        return [Completion(d.number, (), Sample(d.ids, (), ended=True), d.text) for d in self._drafts]

    def judge(self, first: Sequence[Completion], second: Sequence[Completion]) -> Probabilities:
        environment = self._environment
        p: Probabilities = np.full(len(first), np.nan)
        parts = as_they_come([*zip(first, second, strict=True)])
        while True:
            with environment.clock("rollout"):
                part = next(parts, None)
            if part is None:
                break
            a, b = ([answers[number] for number in part] for answers in (first, second))
            with environment.clock("judge"):
                p[part] = environment.preference(
                    [self._chats[answer.chat] for answer in a], [x.text for x in a], [x.text for x in b]
                )
        self.judged.append(p)
        return penalised(p, first, second, environment.eos_penalty)

    def right(self) -> dict[str, float]:
        """Shares of right answers by player, where the judge knows; `given`: of the Follower's to given drafts."""
        judge = self._environment.preference
        if not isinstance(judge, Verifying):
            return {}
        with self._environment.clock("judge"):
            verdicts = judge.right(
                [self._chats[answer.chat] for _, answer in self.answered], [answer.text for _, answer in self.answered]
            )
        by_player: dict[str, list[float]] = defaultdict(list)
        for (player, answer), verdict in zip(self.answered, verdicts.tolist(), strict=True):
            if not math.isnan(verdict):
                by_player[player if answer.chat in self._own else "given"].append(verdict)
        return {player: sum(known) / len(known) for player, known in by_player.items()}

    def _seed(self, number: int, slot: int, again: int) -> int:
        """`again`: how many answers to this chat the same call has had before."""
        entropy = [self._environment.seed, self._step, number, slot, again]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
