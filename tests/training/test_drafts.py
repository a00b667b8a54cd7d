"""Drafts of others among the Follower's lessons: which are taken, what a step draws, and what is learnt from them."""

from pathlib import Path

import numpy as np
import pytest
import torch

from slhf_training.data import Example, Pair, Scores
from slhf_training.errors import DataError
from slhf_training.fit.step import DraftPool, drafts_of
from slhf_training.models.prompts import Prompts
from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as, finished, losses, trained

EXAMPLES = [
    Example(tiny.CHAT, Pair("A B", "C")),
    Example(tiny.CHAT, None, Scores("say it which", {})),
    Example(tiny.CHAT),
    Example(tiny.CHAT, None, Scores("", {})),
]


@pytest.fixture
def prompts() -> Prompts:
    return Prompts(tiny.tokenizer())


def test_every_answer_of_a_row_that_fits_is_a_draft(prompts: Prompts) -> None:
    asked = len(prompts.leader(tiny.CHAT))
    found = drafts_of(EXAMPLES, prompts, first_number=7, most=asked + 2)
    assert [(draft.number, draft.text) for draft in found] == [(7, "A B"), (8, "C")]
    assert [prompts.text(draft.ids) for draft in found] == ["A B", "C"]
    assert len(drafts_of(EXAMPLES, prompts, 7, asked + 3)) == 3


def test_the_worse_answer_of_a_pair_alone_may_be_a_draft(prompts: Prompts) -> None:
    assert [draft.text for draft in drafts_of(EXAMPLES, prompts, 0, 100, "rejected")] == ["C"]


def test_a_step_draws_without_replacement_and_the_same_again(prompts: Prompts) -> None:
    drafts = drafts_of([Example(tiny.CHAT, Pair("A", "B"))] * 10, prompts, 0, 100)
    draft_pool = DraftPool(drafts, 8, seed=1)
    drawn = [draft.number for draft in draft_pool.at(3)]
    assert len(set(drawn)) == 8
    assert drawn == [draft.number for draft in DraftPool(drafts, 8, seed=1).at(3)]
    assert drawn != [draft.number for draft in draft_pool.at(4)]


def test_several_processes_share_what_one_draws(prompts: Prompts) -> None:
    """Of 20 drafts, two processes that drew 8 each on their own would meet one twice in nearly every step."""
    drafts = drafts_of([Example(tiny.CHAT, Pair("A", "B"))] * 10, prompts, 0, 100)
    one, piles = DraftPool(drafts, 16, seed=1), [DraftPool(drafts, 8, 1, process, processes=2) for process in (0, 1)]
    for step in range(20):
        parts = [[draft.number for draft in draft_pool.at(step)] for draft_pool in piles]
        assert [len(part) for part in parts] == [8, 8]
        assert [*parts[0], *parts[1]] == [draft.number for draft in one.at(step)]


def test_too_few_drafts_for_a_step_are_refused(prompts: Prompts) -> None:
    with pytest.raises(DataError, match="drafts: 3 are fewer than the 8 of one step"):
        DraftPool(drafts_of(EXAMPLES, prompts, 0, 100), 8, seed=0)
    with pytest.raises(DataError, match="drafts: 3 are fewer than the 4 of one step of 2 processes"):
        DraftPool(drafts_of(EXAMPLES, prompts, 0, 100), 2, 0, process=1, processes=2)


def test_the_follower_learns_from_given_drafts_and_the_leader_does_not(tmp_path: Path, prompts: Prompts) -> None:
    """The judge abstains from all but the given draft, C: there is nothing else to learn from."""
    draft_pool = DraftPool(drafts_of([Example(CHATS[0], Pair("C C C", "C C"))], prompts, len(CHATS), 100), 2, seed=0)

    def of_given(chats: object, first: list[str], second: list[str]) -> object:
        return np.where([text in ("C C C", "C C") for text in first], fewer_as([], first, second) * 0.5, np.nan)

    before = trained(tiny.trainer(tiny.settings(tmp_path / "before"), fewer_as, CHATS))
    trainer = finished(tmp_path / "run", preference=of_given, draft_pool=draft_pool)
    moved = {name for name, value in trained(trainer).items() if not torch.equal(value, before[name])}
    assert moved == {name for name in before if ".follower." in name}
    assert trainer.state.log_history[0].keys() & {"given/win_rate", "follower/win_rate"} == {"given/win_rate"}


def test_the_leaders_lesson_is_the_same_beside_given_drafts(tmp_path: Path, prompts: Prompts) -> None:
    draft_pool = DraftPool(drafts_of([Example(CHATS[0], Pair("A", "B"))] * 4, prompts, len(CHATS), 100), 4, seed=0)
    once = {"steps": 1, "schedule": "constant"}
    without = finished(tmp_path / "without", optimisation=once)
    beside = finished(tmp_path / "beside", draft_pool=draft_pool, optimisation=once)
    assert losses(without) != losses(beside)
    one, other = trained(without), trained(beside)
    differing = {name for name in one if not torch.equal(one[name], other[name])}
    assert differing
    assert all(".follower." in name for name in differing)
