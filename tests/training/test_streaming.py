"""With a rollout that streams, a Follower's request starts as its draft ends, and pairs are judged while others are
being written; the game is the same."""

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slhf_training.errors import RolloutError
from slhf_training.fit.algorithms import Game, stackelberg
from slhf_training.fit.step import ChatStepContext, Clock, Environment
from slhf_training.fit.streaming import AT_ONCE
from slhf_training.fit.trainer import GameTrainer
from slhf_training.models.prompts import Prompts
from slhf_training.rollout import Ask, Streaming
from slhf_training.types import Chat, Ids, Player, Probabilities, Sample
from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as, losses, same, trained

CHAT_COUNT = 2 * AT_ONCE
PATIENCE = 30.0
GAME = Game(replies_per_draft=1)


class Threaded:
    """Answers in threads, each when `before` lets it."""

    def __init__(self, pool: ThreadPoolExecutor, before: Any) -> None:
        self._pool, self._before = pool, before

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        raise AssertionError("one that streams is not asked for a batch")

    def asking(self, player: Player) -> Ask:
        def answer(place: int, seed: int) -> Sample:
            self._before(player, place)
            word = int(np.random.default_rng(seed).integers(1, tiny.END))
            return Sample((word, tiny.END), (-1.0, -0.5), ended=True)

        return lambda place, prompt, seed: self._pool.submit(answer, place, seed)


@contextmanager
def context(before: Any, preference: Any = fewer_as) -> Iterator[ChatStepContext]:
    with ThreadPoolExecutor(2 * CHAT_COUNT) as pool:
        environment = Environment(
            Prompts(tiny.tokenizer()), Threaded(pool, before), preference, Clock(), eos_penalty=0.5, seed=0
        )
        yield ChatStepContext(environment, [tiny.CHAT] * CHAT_COUNT, range(CHAT_COUNT), step=0)


def test_a_follower_is_asked_while_other_leaders_are_still_writing() -> None:
    """The last Leader's answer ends only when the first one is being refined."""
    refining = threading.Event()

    def before(player: Player, place: int) -> None:
        if (player, place) == ("follower", 0):
            refining.set()
        if (player, place) == ("leader", CHAT_COUNT - 1):
            assert refining.wait(PATIENCE)

    with context(before) as here:
        episodes = stackelberg(here, GAME)
        assert len([episode.answer.text for episode in episodes]) == 2 * CHAT_COUNT


def test_pairs_are_judged_while_others_are_still_being_written() -> None:
    judging, asked = threading.Event(), []

    def before(player: Player, place: int) -> None:
        if (player, place) == ("follower", CHAT_COUNT - 1):
            assert judging.wait(PATIENCE)

    def preference(chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        judging.set()
        asked.append(len(chats))
        return fewer_as(chats, first, second)

    with context(before, preference) as here:
        stackelberg(here, GAME)
    assert sum(asked) == CHAT_COUNT
    assert len(asked) > 1
    assert min(asked[:-1]) >= AT_ONCE  # a judge that may fail counts failures as a share of a batch


def test_what_fails_on_the_way_is_raised_where_it_is_waited_for() -> None:
    def before(player: Player, place: int) -> None:
        if (player, place) == ("leader", 3):
            raise RolloutError("gone")

    with context(before) as here, pytest.raises(RolloutError, match="gone"):
        stackelberg(here, GAME)


class Batched:
    """The same answers without streaming."""

    def __init__(self, streaming: Streaming) -> None:
        self._streaming = streaming

    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        ask = self._streaming.asking(player)
        asked: list[Future[Sample]] = [ask(at, *one) for at, one in enumerate(zip(prompts, seeds, strict=True))]
        return [future.result() for future in asked]


@pytest.mark.parametrize("changes", [{"algorithm": "rloo"}, {"game": {"rollout_rounds": 2, "replies_per_draft": 2}}])
def test_a_run_learns_the_same(changes: dict[str, Any], tmp_path: Path) -> None:
    def run(name: str, pool: ThreadPoolExecutor) -> GameTrainer:
        settings = tiny.settings(tmp_path / name, optimisation={"batch_size": 24}, **changes)
        trainer = tiny.trainer(settings, fewer_as, CHATS)
        rollout = Threaded(pool, lambda player, place: None)
        chosen = rollout if name == "streamed" else Batched(rollout)
        trainer.environment = dataclasses.replace(trainer.environment, rollout=chosen)
        trainer.train()
        return trainer

    with ThreadPoolExecutor(8) as pool:
        streamed, batched = run("streamed", pool), run("batched", pool)
    assert losses(streamed) == losses(batched)
    assert same(trained(streamed), trained(batched))
