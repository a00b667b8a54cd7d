"""Who answers whom, and what for: the algorithms on a table that keeps a record."""

import math
from collections.abc import Sequence

import numpy as np
import pytest

from slhf_training.fit.algorithms import (
    Completion,
    EpisodeReturn,
    Game,
    advantages,
    nash_md,
    penalised,
    rloo,
    stackelberg,
)
from slhf_training.types import Player, Probabilities, Sample

CHATS = 2
GAME = Game(tau_leader=0.1, tau_follower=0.2, rollout_rounds=2, samples_per_prompt=3, replies_per_draft=1)


class RecordingContext:
    """Two chats; an answer is named by player, slot and chat, and the first of two wins with a set probability."""

    def __init__(self, *p: float | tuple[float, ...], given: int = 0) -> None:
        self._given = [Completion(CHATS + i, (), Sample((1,), (), True), f"given-{CHATS + i}") for i in range(given)]
        self.asked: list[tuple[str, int, list[str]]] = []
        self.met: list[tuple[str, str]] = []
        self._p = list(p)

    def answer(
        self, player: Player, slot: int, drafts: Sequence[Completion] | None = None, each: int = 1
    ) -> list[Completion]:
        self.asked.append((player, slot, [d.text for d in drafts or []]))
        sample = Sample((1,), (0.0,), True)
        chats = range(CHATS) if drafts is None else [draft.chat for draft in drafts]
        return [Completion(chat, (0,), sample, f"{player}{slot}-{chat}") for chat in chats for _ in range(each)]

    def given(self) -> list[Completion]:
        return self._given

    def judge(self, first: Sequence[Completion], second: Sequence[Completion]) -> Probabilities:
        self.met += [(one.text, other.text) for one, other in zip(first, second, strict=True)]
        return np.resize(self._p.pop(0), len(first))


def test_the_follower_answers_the_leader_and_then_itself() -> None:
    table = RecordingContext(0.3, 0.4)
    rows = stackelberg(table, GAME)
    assert table.asked == [
        ("leader", 0, []),
        ("follower", 1, ["leader0-0", "leader0-1"]),
        ("follower", 2, ["follower1-0", "follower1-1"]),
    ]
    assert [(row.role, row.answer.text, row.reward, row.tau) for row in rows] == [
        ("leader", "leader0-0", 0.3, 0.1),
        ("leader", "leader0-1", 0.3, 0.1),
        ("follower", "follower1-0", 0.7, 0.2),
        ("follower", "follower1-1", 0.7, 0.2),
        ("follower", "follower2-0", 0.6, 0.2),
        ("follower", "follower2-1", 0.6, 0.2),
    ]


def test_given_drafts_are_refined_for_the_followers_sake_alone() -> None:
    table = RecordingContext(0.3, 0.4, given=1)
    rows = stackelberg(table, GAME)
    assert table.asked[1:] == [
        ("follower", 1, ["leader0-0", "leader0-1", "given-2"]),
        ("follower", 2, ["follower1-0", "follower1-1", "follower1-2"]),
    ]
    assert [row.answer.text for row in rows if row.role == "leader"] == ["leader0-0", "leader0-1"]
    refined = [row for row in rows if row.answer.chat == CHATS]
    assert [(row.answer.text, row.reward) for row in refined] == [("follower1-2", 0.7), ("follower2-2", 0.6)]
    own = {row.group for row in rows if row.answer.chat < CHATS}
    assert not own & {row.group for row in refined}  # drafts of other strength are no baselines of each other


def test_the_leader_is_paid_for_the_kl_of_the_reply_it_met() -> None:
    rows = stackelberg(RecordingContext(0.3, 0.4), GAME)
    assert [[reply.text for reply in row.opponents] for row in rows if row.role == "leader"] == [
        ["follower1-0"],
        ["follower1-1"],
    ]


def test_several_replies_to_a_draft_are_each_others_baseline() -> None:
    """Replies 1 and 2 are to chat 0, 3 and 4 to chat 1, 5 and 6 to the given draft."""
    table = RecordingContext(0.0, given=1)
    table.judge = lambda first, second: np.arange(1, len(first) + 1) / 10  # type: ignore[method-assign]
    rows = stackelberg(table, GAME.model_copy(update={"replies_per_draft": 2, "rollout_rounds": 1}))
    assert table.asked[1] == ("follower", 1, ["leader0-0"] * 2 + ["leader0-1"] * 2 + ["given-2"] * 2)
    leader, follower = rows[:2], rows[2:]
    assert [row.reward for row in leader] == pytest.approx([0.15, 0.35])
    assert [[reply.chat for reply in row.opponents] for row in leader] == [[0, 0], [1, 1]]
    assert [row.reward for row in follower] == pytest.approx([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
    groups = [row.group for row in follower]
    assert groups[::2] == groups[1::2]
    assert len(set(groups)) == 3


def test_an_abstention_from_one_reply_leaves_the_leader_without_a_reward() -> None:
    table = RecordingContext()
    table.judge = lambda first, second: np.array([0.5, np.nan, 0.4, 0.2])  # type: ignore[method-assign]
    rows = stackelberg(table, GAME.model_copy(update={"replies_per_draft": 2, "rollout_rounds": 1}))
    assert [row.reward for row in rows[:2]] == pytest.approx([math.nan, 0.3], nan_ok=True)


def test_an_answer_and_the_reply_to_it_are_no_baselines_of_each_other() -> None:
    rows = stackelberg(RecordingContext(0.3, 0.4), GAME)
    assert len({row.group for row in rows}) == 3  # the Leader, the Follower's first and its second reply
    assert all(first.answer.chat != second.answer.chat for first, second in zip(rows[::2], rows[1::2], strict=True))


def test_rloo_scores_its_samples_against_one_answer_of_the_reference() -> None:
    table = RecordingContext((0.2, 0.4, 0.9, 0.1, 0.5, 0.6))
    rows = rloo(table, GAME)
    assert table.asked == [("leader", 0, []), ("reference", 1, [])]  # all samples at once: a batch is what costs
    assert [(row.answer.text, row.reward, row.group) for row in rows] == [
        ("leader0-0", 0.2, ("chat", 0)),
        ("leader0-0", 0.4, ("chat", 0)),
        ("leader0-0", 0.9, ("chat", 0)),
        ("leader0-1", 0.1, ("chat", 1)),
        ("leader0-1", 0.5, ("chat", 1)),
        ("leader0-1", 0.6, ("chat", 1)),
    ]
    assert table.met == [(text, f"reference1-{text[-1]}") for text in ["leader0-0"] * 3 + ["leader0-1"] * 3]


def test_nash_md_plays_against_the_mixture() -> None:
    table = RecordingContext(0.7)
    rows = nash_md(table, GAME)
    assert [player for player, *_ in table.asked] == ["leader", "mixture"]
    assert [row.reward for row in rows] == [0.7, 0.7]


def graded(*rows: tuple[str, float, float]) -> list[EpisodeReturn]:
    return [EpisodeReturn((group, 0), reward, (return_to_go,)) for group, reward, return_to_go in rows]


def test_leave_one_out_takes_off_the_mean_worth_of_the_others() -> None:
    """Worths 0.8, 0.2, 0.4 in group a: 0.9 - 0.3, 0.2 - 0.6, 0.4 - 0.5; b is alone: 0.7 - 0.5."""
    rows = graded(("a", 0.9, 0.8), ("a", 0.2, 0.2), ("b", 0.7, 0.1), ("a", 0.4, 0.4))
    assert advantages(rows, leave_one_out=True) == [[pytest.approx(a)] for a in (0.6, -0.4, 0.2, -0.1)]
    assert advantages(rows, leave_one_out=False) == [[pytest.approx(a)] for a in (0.4, -0.3, 0.2, -0.1)]


def test_the_baseline_counts_the_rows_of_other_processes() -> None:
    own, other = graded(("a", 0.9, 0.9)), graded(("a", 0.2, 0.2), ("a", 0.4, 0.4))
    assert advantages(own, leave_one_out=True, pool=own + other) == [[pytest.approx(0.6)]]


def test_unfinished_answers_are_penalised_both_ways() -> None:
    """p - 0.5 for a first that did not end, p + 0.5 for a second; both: as it was; never outside [0, 1]."""

    def answers(*ended: bool) -> list[Completion]:
        return [Completion(i, (0,), Sample((1,), (0.0,), e), "") for i, e in enumerate(ended)]

    p = np.array([0.6, 0.6, 0.2, 0.3, np.nan])
    first, second = answers(False, False, True, True, True), answers(True, False, False, True, False)
    assert penalised(p, first, second, 0.5) == pytest.approx(np.array([0.1, 0.6, 0.7, 0.3, np.nan]), nan_ok=True)
    assert penalised(p, second, first, 1.0) == pytest.approx(np.array([1.0, 0.6, 0.0, 0.3, np.nan]), nan_ok=True)
