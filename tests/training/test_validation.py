"""A run that looks at itself: held-out chats, another judge, the best checkpoint kept, and an end in time."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from slhf_training.cli import main
from slhf_training.errors import DataError, SettingsError
from slhf_training.fit import FitSettings
from slhf_training.fit.run import best_step, start_run
from slhf_training.fit.trainer import GameTrainer
from slhf_training.fit.validation import FILE, Validation, figures
from slhf_training.types import Chat, Probabilities
from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as

HELD_OUT: list[Chat] = [[{"role": "user", "content": text}] for text in ("A", "B", "C")]
CALLED = {"kind": "callable", "function": "judges:other"}
OTHER = {"data": {"files": ["held.jsonl"]}, "preference": CALLED, "every": 1}


class Scripted:
    """A judge that finds the Follower's answer better than the reference's with these p, one after the other."""

    def __init__(self, *scores: float) -> None:
        self._p = iter(p for score in scores for p in (0.5, 0.5, score))

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return np.full(len(chats), next(self._p))


def trainer(directory: Path, judge: Any, **changes: Any) -> GameTrainer:
    validation = OTHER | changes.pop("validation", {})
    steps = {"steps": changes.pop("steps", 3), "batch_size": 4}
    settings = tiny.settings(directory, validation=validation, save_every=1, optimisation=steps, **changes)
    start_run(settings)
    return tiny.trainer(settings, fewer_as, CHATS, validation=Validation(HELD_OUT, judge, CHATS))


def logged(one: GameTrainer) -> Iterator[dict[str, Any]]:
    return (entry for entry in one.state.log_history if "validation/win_rate" in entry)


def test_win_rates_lengths_and_entropy_are_logged_and_completions_kept(tmp_path: Path) -> None:
    one = trainer(tmp_path, fewer_as, steps=2)
    one.train()
    first, second = logged(one)
    assert (first["step"], second["step"]) == (1, 2)
    for role in ("leader", "follower"):
        assert (
            first[f"validation/{role}/low"] <= first[f"validation/{role}/win_rate"] <= first[f"validation/{role}/high"]
        )
        assert first[f"validation/{role}/judged"] == 1
        assert 1 <= first[f"validation/{role}/tokens"] <= 4
        assert 0 < first[f"validation/{role}/entropy"] < math.log(tiny.VOCABULARY)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text(encoding="utf-8").splitlines()]
    assert [(row["step"], row["chat"]) for row in rows] == [(s, f"user: {c}") for s in (1, 2) for c in ("A", "B", "C")]
    for row in rows:
        p = fewer_as([], [row["follower"], row["leader"], row["follower"]], [row["leader"], *[row["reference"]] * 2])
        assert [row["p"][name] for name in ("follower", "leader", "score")] == p.tolist()


def test_shares_of_right_answers_stand_beside_the_win_rates_of_a_judge_that_knows(tmp_path: Path) -> None:
    one = trainer(tmp_path, Checked(), steps=1)
    one.train()
    (found,) = logged(one)
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text(encoding="utf-8").splitlines()]
    for player in ("leader", "follower", "reference"):
        verdicts = [float("A" in row[player].split()) for row in rows[:2]]
        assert [row["right"][player] for row in rows] == [*verdicts, None]
        assert found[f"validation/{player}/right"] == pytest.approx(sum(verdicts) / 2)


class Checked:
    """Right are answers with an A; of the chat C nothing is known."""

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p: Probabilities = (1 + self.right(chats, first) - self.right(chats, second)) / 2
        return p

    def right(self, chats: Sequence[Chat], answers: Sequence[str]) -> Probabilities:
        known = [float("A" in answer.split()) for answer in answers]
        return np.array([math.nan if chat == HELD_OUT[2] else one for chat, one in zip(chats, known, strict=True)])


def test_two_validations_differ_by_the_weights_alone(tmp_path: Path) -> None:
    one = trainer(tmp_path, fewer_as)
    for _ in range(2):
        one.evaluate()
    rows = [json.loads(line) for line in (tmp_path / FILE).read_text(encoding="utf-8").splitlines()]
    assert rows[:3] == rows[3:]
    assert len({row["leader"] for row in rows}) > 1


def test_the_best_step_is_kept_and_exported(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = trainer(tmp_path / "run", Scripted(0.2, 0.9, 0.4, 0.3), steps=4, keep_checkpoints=1)
    one.train()
    assert {path.name for path in (tmp_path / "run").glob("checkpoint-*")} == {"checkpoint-2", "checkpoint-4"}
    assert best_step(tmp_path / "run") == 2
    for step in (2, 4):  # where it will be found: else a run that goes on says that it is gone
        state = json.loads((tmp_path / "run" / f"checkpoint-{step}" / "trainer_state.json").read_text(encoding="utf-8"))
        assert state["best_model_checkpoint"] == str(tmp_path / "run" / "checkpoint-2")
    resumed = trainer(tmp_path / "run", Scripted(0.8), steps=5, keep_checkpoints=1)
    resumed.train(resume_from_checkpoint=str(tmp_path / "run" / "checkpoint-4"))
    assert best_step(tmp_path / "run") == 2
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "b"), "--best", "--step", "4"]) == 1
    assert "--best and --step" in capsys.readouterr().err


def test_a_run_without_validation_has_no_best(tmp_path: Path) -> None:
    tiny.trainer(tiny.settings(tmp_path, save_every=1), fewer_as, CHATS).train()
    with pytest.raises(SettingsError, match="--best: .* had no validation"):
        best_step(tmp_path)


def test_a_run_ends_when_it_is_no_better_so_many_times(tmp_path: Path) -> None:
    """Also where it was killed in between."""
    patience = {"patience": 2}
    one = trainer(tmp_path / "a", Scripted(0.5, 0.9, 0.8, 0.9, 1.0), steps=5, validation=patience)
    one.train()
    assert one.state.global_step == 4
    first = trainer(tmp_path / "b", Scripted(0.9, 0.8), steps=2, validation=patience)
    first.train()
    resumed = trainer(tmp_path / "b", Scripted(0.8, 1.0), steps=5, validation=patience)
    resumed.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    assert resumed.state.global_step == 3


def test_intervals_are_of_the_judged_pairs() -> None:
    """p .5 and 1: mean .75, standard deviation .354, standard error .25."""
    records = [
        {"p": {"leader": p, "score": p}, "tokens": {"leader": 3}, "entropy": {"leader": 0.5}, "right": {}}
        for p in (0.5, 1.0)
    ]
    abstained = {"leader": math.nan, "score": math.nan}
    records.append({"p": abstained, "tokens": {"leader": 6}, "entropy": {"leader": 0.2}, "right": {}})
    found = figures(records)
    assert found["validation/leader/win_rate"] == pytest.approx(0.75)
    assert found["validation/leader/low"] == pytest.approx(0.75 - 1.96 * 0.25)
    assert found["validation/leader/judged"] == pytest.approx(2 / 3)
    assert found["validation/leader/tokens"] == pytest.approx(4)
    assert found["eval_score"] == pytest.approx(0.75)


def test_chats_that_are_trained_on_are_refused() -> None:
    with pytest.raises(DataError, match=r"validation.data: 1 of 2 chats are trained on"):
        Validation([HELD_OUT[0], CHATS[0]], fewer_as, CHATS)


def test_another_model_of_one_server_is_another_judge_and_the_same_address_of_a_reward_is_not(tmp_path: Path) -> None:
    def given(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
        settings = tiny.settings(tmp_path).model_dump(mode="json")
        return settings | {"preference": one, "validation": OTHER | {"preference": other}, "save_every": 1}

    judge = {"kind": "judge", "url": "http://here/v1"}
    assert FitSettings.model_validate(given(judge | {"model": "a"}, judge | {"model": "b"}))
    remote = {"kind": "remote-reward", "url": "http://here/score"}
    with pytest.raises(ValidationError, match="the training asks http://here/score, too"):
        FitSettings.model_validate(given(remote, remote | {"scale": 2.0}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"save_every": 2}, "validation.every: 1 is no multiple of save_every"),
        (
            {"preference": {"kind": "callable", "function": "judges:other"}},
            "validation.preference: .*judges:other, too",
        ),
        (
            {"preference": {"kind": "panel", "judges": dict.fromkeys("ab", {"preference": CALLED})}},
            "validation.preference: .*judges:other, too",
        ),
    ],
)
def test_a_judge_cannot_check_its_own_pupil(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    given = tiny.settings(tmp_path).model_dump(mode="json") | {"validation": OTHER, "save_every": 1}
    with pytest.raises(ValidationError, match=message):
        FitSettings.model_validate(given | changes)


def test_what_a_program_checks_may_be_the_same(tmp_path: Path) -> None:
    checked = {"kind": "checked", "data": [{"files": ["/rows.jsonl"]}]}
    given = tiny.settings(tmp_path).model_dump(mode="json") | {"preference": checked, "save_every": 1}
    assert FitSettings.model_validate(given | {"validation": OTHER | {"preference": checked}}).validation is not None
