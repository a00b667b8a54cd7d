"""Adding an algorithm takes a function and one line of the registry: nothing else of training knows its name."""

import importlib
from pathlib import Path
from typing import Any

import pytest

from slhf_training.fit.algorithms import ALGORITHMS, Algorithm, Episode, Game, StepContext
from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as

TOY = '''
"""The Leader against its own second answer: each is the other's opponent."""

from slhf_training.fit.algorithms import Algorithm, Episode, Game, StepContext


def self_play(context: StepContext, game: Game) -> list[Episode]:
    one, other = context.answer("leader", 0), context.answer("leader", 1)
    wins = context.judge(one, other)
    pairs = [*zip(one, wins, strict=True), *zip(other, 1 - wins, strict=True)]
    return [Episode("leader", answer, float(p), game.tau_leader, ("leader",)) for answer, p in pairs]


SELF_PLAY = Algorithm(self_play, leave_one_out=True)
'''


@pytest.fixture
def _self_play(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_self_play.py").write_text(TOY)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(ALGORITHMS, "self-play", importlib.import_module("toy_self_play").SELF_PLAY)


@pytest.mark.usefixtures("_self_play")
def test_an_algorithm_of_another_file_trains(tmp_path: Path) -> None:
    fit = tiny.settings(tmp_path / "run", algorithm="self-play")
    trainer = tiny.trainer(fit, fewer_as, CHATS)
    before = {name: [p.detach().clone() for p in weights] for name, weights in trainer.roles.trained.items()}
    trainer.train()
    assert before.keys() == {"leader"}  # it trains no other role
    after = trainer.roles.trained["leader"]
    assert all((new != old).any() for new, old in zip(after, before["leader"], strict=True))


@pytest.mark.usefixtures("_self_play")
def test_settings_know_what_it_can(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="drafts: self-play has no Follower to refine them"):
        tiny.settings(tmp_path / "run", algorithm="self-play", drafts={"data": [{"files": ["drafts.jsonl"]}]})


def test_settings_name_the_algorithms_there_are(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"expected one of {', '.join(ALGORITHMS)}"):
        tiny.settings(tmp_path / "run", algorithm="self-play")


def follower_alone(context: StepContext, game: Game) -> list[Episode]:
    drafts = context.answer("reference", 0)
    replies = context.answer("follower", 1, drafts=drafts)
    wins = 1 - context.judge(drafts, replies)
    return [Episode("follower", y, float(p), game.tau_follower, ("f",)) for y, p in zip(replies, wins, strict=True)]


def test_kappa_counts_once_for_a_follower_that_learns_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With an adapter of its own it is in the learning rate, and not in the gradient that is clipped, too."""
    monkeypatch.setitem(ALGORITHMS, "follower-alone", Algorithm(follower_alone, trains=("follower",)))
    norms = []
    for kappa in (1, 4):
        run: dict[str, Any] = {"game": {"kappa": kappa}, "optimisation": {"steps": 1}}
        fit = tiny.settings(tmp_path / str(kappa), algorithm="follower-alone", **run)
        trainer = tiny.trainer(fit, fewer_as, CHATS)
        trainer.train()
        norms.append(trainer.state.log_history[0]["follower/grad_norm"])
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
