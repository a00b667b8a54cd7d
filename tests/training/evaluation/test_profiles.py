"""The section `profiles`: a judge that reads the words tells which text follows them; one that does not, says so."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from slhf_training.errors import SettingsError
from slhf_training.evaluation.run import READABLE, evaluate
from slhf_training.types import Chat, Probabilities
from tests.training.evaluation.fakes import QUESTIONS, FakeModels, Longer, jsonl, settings
from tests.training.evaluation.test_sections import read

WORDS = {"short": "Be short.", "long": "Be long."}
TEXTS = {"short": "Yes.", "long": "Yes, and for many a reason that I could name."}


class Obedient(Longer):
    """Prefers the longer text where the request ends with "Be long.", and else the shorter one."""

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p = super().__call__(chats, first, second)
        lines = [str(chat[-1]["content"]).splitlines() for chat in chats]
        assert {question for question, _ in lines} <= set(QUESTIONS)
        assert {words for _, words in lines} <= set(WORDS.values())
        return np.asarray(np.where([words == "Be long." for _, words in lines], p, 1 - p), dtype=np.float64)


def profiles(folder: Path, judge: Longer) -> Any:
    """Two files of texts, as `slhf refine --profile` writes them, to every prompt but one of the second file's."""
    models = {}
    for name, text in TEXTS.items():
        rows = [
            {"id": str(n), "prompt": q, "output": text} for n, q in enumerate(QUESTIONS[: 3 if name == "short" else 2])
        ]
        models[name] = {"drafts": str(jsonl(folder / f"{name}.jsonl", rows))}
    how = settings(
        folder,
        models=models,
        profiles={"profiles": {name: {"words": WORDS[name], "answers": name} for name in models}},
    )
    return evaluate(how, opened=FakeModels(), judge=judge.of)["sections"]["profiles"]


def test_texts_that_follow_their_words_win_under_them_and_lose_under_the_others(tmp_path: Path) -> None:
    found = profiles(tmp_path, Obedient())
    assert found["profiles"] == WORDS
    assert [(pair["profile"], pair["against"], pair["prompts"]) for pair in found["pairs"]] == [
        ("short", "long", 2),
        ("long", "short", 2),
    ]
    for pair in found["pairs"]:
        assert (pair["follows"]["value"], pair["shift"]["value"]) == (1.0, 1.0)
        assert pair["words"] == ([1, 10] if pair["profile"] == "short" else [10, 1])
    text = (tmp_path / "out" / READABLE).read_text(encoding="utf-8")
    assert "| short | Be short. |" in text
    assert "| long | short | 2 | 1.000 (1.000–1.000) |" in text


def test_a_judge_who_likes_one_text_whatever_is_asked_shows_no_shift(tmp_path: Path) -> None:
    short, long = profiles(tmp_path, Longer())["pairs"]
    assert (short["follows"]["value"], long["follows"]["value"]) == (0.0, 1.0)
    assert (short["shift"]["value"], long["shift"]["value"]) == (0.0, 0.0)


def test_fewer_than_two_profiles_or_texts_of_nobody_are_refused(tmp_path: Path) -> None:
    one = {"words": "Be short.", "answers": "base"}
    with pytest.raises(SettingsError, match=r"profiles\.profiles"):
        read(tmp_path, profiles={"profiles": {"short": one}})
    with pytest.raises(SettingsError, match="'nobody' is none of the models"):
        read(tmp_path, profiles={"profiles": {"short": one, "long": {"words": "Be long.", "answers": "nobody"}}})
