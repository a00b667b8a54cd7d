"""One step's chats, played with a rollout and a judge: the algorithms' Table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slhf_training.fit.algorithms import Answer, Array, penalised
from slhf_training.fit.clock import Clock
from slhf_training.fit.drafts import Draft
from slhf_training.models.prompts import Prompts
from slhf_training.preference import Preference
from slhf_training.rollout import Rollout
from slhf_training.types import Chat, Player, Sample


@dataclass(frozen=True, slots=True)
class Seats:
    """What stays the same from step to step."""

    prompts: Prompts
    rollout: Rollout
    preference: Preference
    clock: Clock
    eos_penalty: float
    seed: int


class ChatTable:
    def __init__(
        self, seats: Seats, chats: Sequence[Chat], numbers: Sequence[int], step: int, drafts: Sequence[Draft] = ()
    ) -> None:
        """`numbers`: each chat's place in the data; it and the step fix the random numbers of its answers."""
        self._seats = seats
        self._numbers = numbers
        self._drafts = drafts
        self._chats = dict(zip(numbers, chats, strict=True)) | {draft.number: draft.chat for draft in drafts}
        self._step = step
        self.chats = len(numbers)
        """Of the training data; what is answered or judged behind theirs belongs to given drafts."""
        self.answered: list[tuple[Player, Answer]] = []
        self.judged: list[Array] = []
        """The judge's own words, without the penalty for unfinished answers, in the order of the questions."""

    def answer(self, player: Player, slot: int, drafts: Sequence[Answer] | None = None) -> list[Answer]:
        seats = self._seats
        numbers = self._numbers if drafts is None else [d.chat for d in drafts]
        if drafts is None:
            prompts = [seats.prompts.leader(self._chats[number]) for number in numbers]
        else:
            prompts = [seats.prompts.follower(self._chats[d.chat], d.sample.ids) for d in drafts]
        again: Counter[int] = Counter()
        seeds = []
        for number in numbers:
            seeds.append(self._seed(number, slot, again[number]))
            again[number] += 1
        with seats.clock("rollout"):
            samples = seats.rollout.sample(prompts, player, seeds)
        found = [
            Answer(number, prompt, sample, seats.prompts.text(sample.ids))
            for number, prompt, sample in zip(numbers, prompts, samples, strict=True)
        ]
        self.answered += [(player, answer) for answer in found]
        return found

    def given(self) -> list[Answer]:
        return [Answer(d.number, (), Sample(d.ids, (), ended=True), d.text) for d in self._drafts]

    def judge(self, first: Sequence[Answer], second: Sequence[Answer]) -> Array:
        seats = self._seats
        with seats.clock("judge"):
            p = seats.preference(
                [self._chats[a.chat] for a in first], [a.text for a in first], [b.text for b in second]
            )
        self.judged.append(p)
        return penalised(p, first, second, seats.eos_penalty)

    def _seed(self, number: int, slot: int, again: int) -> int:
        """`again`: how many answers to this chat the same call has had before."""
        entropy = [self._seats.seed, self._step, number, slot, again]
        return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0])
