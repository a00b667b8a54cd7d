"""Drafts that others wrote, for the Follower to refine: which ones a step plays with."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from slhf_training.data.examples import Example
from slhf_training.errors import DataError
from slhf_training.fit.settings import DraftAnswers
from slhf_training.models.prompts import Prompts
from slhf_training.types import Chat, Ids


@dataclass(frozen=True, slots=True)
class Draft:
    number: int
    """Tells its chat apart from all others, those of the training data too."""
    chat: Chat
    text: str
    ids: Ids


class Pile:
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
