"""The section `panel`: verdicts of a judge that abstains, on refinements against their drafts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slhf_training.errors import SettingsError
from slhf_training.evaluation.run import READABLE, evaluate
from slhf_training.types import Chat, Probabilities
from tests.training.evaluation.fakes import FakeModels, Longer, Reply, jsonl, settings
from tests.training.evaluation.test_sections import read

QUESTIONS = [f"Question {n}?" for n in range(10)]


class LongerOrSilent(Longer):
    """Says nothing where one of the texts is unclear."""

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p = super().__call__(chats, first, second)
        unclear = ["unclear" in one + two for one, two in zip(first, second, strict=True)]
        return np.asarray(np.where(unclear, np.nan, p), dtype=np.float64)


def follower(name: str) -> Reply:
    """The Leader's draft has five letters. The Follower's answer to questions 0 to 4 is longer, to 5 shorter, to 6, 7
    the same, and to 8, 9 something of which the panel does not speak."""

    def reply(task: Any, draft: str | None) -> str:
        number = int(task.chat[0]["content"].split()[1].rstrip("?"))
        if draft is None or number in (6, 7):
            return draft or "draft"
        return "better by far" if number < 5 else "less" if number == 5 else f"unclear {number}"

    return reply


def panel(folder: Path, **changes: Any) -> Any:
    prompts = jsonl(folder / "open.jsonl", [{"prompt": question} for question in QUESTIONS])
    task = {"data": {"files": [str(prompts)]}, "leaders": ["slhf"]}
    how = settings(folder, prompts=None, panel={"tasks": {"open": task}, "followers": ["slhf"], **changes})
    return evaluate(how, opened=FakeModels(follower), judge=LongerOrSilent().of)["sections"]["panel"]


def test_the_win_rate_is_where_the_panel_speaks_and_harm_is_of_all(tmp_path: Path) -> None:
    """It speaks on 6 of the 8 that differ: 5 wins and a loss. Of all 10 drafts one was better before."""
    (row, of_task) = panel(tmp_path)["slhf"]
    assert (row["task"], row["drafts"], of_task["task"]) == ("all", "own Leader", "open")
    assert (row["pairs"], row["judged"]) == (10, 6)
    shares = {key: row[key]["value"] for key in ("unchanged", "coverage", "win_rate", "harm", "help")}
    assert shares == pytest.approx({"unchanged": 0.2, "coverage": 6 / 8, "win_rate": 5 / 6, "harm": 0.1, "help": 0.5})
    assert row["win_rate"]["low"] < 5 / 6 <= row["win_rate"]["high"]
    assert row["words"] == pytest.approx([1, (5 * 3 + 3 * 1 + 2 * 2) / 10])
    text = (tmp_path / "out" / READABLE).read_text(encoding="utf-8")
    assert "## Panel: refined by slhf" in text
    assert "| all | own Leader | 10 | 20.0 % (" in text


def test_a_panel_that_never_speaks_has_no_win_rate_and_finds_no_harm(tmp_path: Path) -> None:
    class Silent(Longer):
        def __call__(self, chats: Any, first: Any, second: Any) -> Any:
            return np.full(len(chats), np.nan)

    prompts = jsonl(tmp_path / "open.jsonl", [{"prompt": question} for question in QUESTIONS])
    task = {"data": {"files": [str(prompts)]}, "leaders": ["slhf"]}
    how = settings(tmp_path, prompts=None, panel={"tasks": {"open": task}, "followers": ["slhf"]})
    row = evaluate(how, opened=FakeModels(follower), judge=Silent().of)["sections"]["panel"]["slhf"][0]
    assert (row["win_rate"], row["coverage"]["value"], row["harm"]["value"]) == (None, 0, 0)


def test_drafts_of_other_models_are_told_apart_and_pooled(tmp_path: Path) -> None:
    """Drafts come from a file of one model's answers, and with the data; a prompt without a draft is left out."""
    outputs = [{"prompt": question, "output": "draft"} for question in QUESTIONS[:4]]
    rows = [{"prompt": question, "draft": "draft!", "model": "gpt"} for question in QUESTIONS]
    given = {"data": {"files": [str(jsonl(tmp_path / "given.jsonl", rows))]}}
    prompts = {"files": [str(jsonl(tmp_path / "open.jsonl", [{"prompt": question} for question in QUESTIONS]))]}
    how = settings(
        tmp_path,
        prompts=None,
        models={
            "slhf": {"bundle": str(tmp_path / "slhf")},
            "alpaca": {"drafts": str(jsonl(tmp_path / "alpaca.jsonl", outputs))},
        },
        panel={
            "tasks": {"given": given, "open": {"data": prompts, "leaders": ["alpaca", "slhf"]}},
            "followers": ["slhf"],
        },
    )
    rows_found = evaluate(how, opened=FakeModels(follower), judge=LongerOrSilent().of)["sections"]["panel"]["slhf"]
    pairs = {(row["task"], row["drafts"]): row["pairs"] for row in rows_found}
    assert pairs == {
        ("all", "own Leader"): 10,
        ("all", "all other models"): 14,
        ("all", "gpt"): 10,
        ("all", "alpaca"): 4,
        ("open", "own Leader"): 10,
        ("given", "all other models"): 10,
        ("open", "all other models"): 4,
    }
    others = next(row for row in rows_found if row["drafts"] == "all other models")
    assert others["prompts"] == 10


def test_a_panel_needs_a_judge(tmp_path: Path) -> None:
    section = {"tasks": {"open": {"data": {"files": ["open.jsonl"]}}}, "followers": ["slhf"]}
    with pytest.raises(SettingsError, match="panel needs preference"):
        read(tmp_path, preference=None, panel=section)
