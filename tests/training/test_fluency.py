"""Likelihood under a frozen model as a voter: values by hand on a random Llama, and what the built-in model hears."""

import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from slhf_training.errors import SettingsError
from slhf_training.preference import PreferenceSettings, preference_of
from slhf_training.preference.fluency import Fluency, FluencySettings
from slhf_training.types import Chat
from tests.training import tiny

SETTINGS = FluencySettings(kind="fluency", model="tiny", floor=2.0, scale=0.5, max_tokens=8)
SENTENCES = [
    ("What is the capital of France?", "The capital of France is Paris, which lies on the river Seine."),
    ("How do I boil an egg?", "Put the egg in boiling water for about eight minutes, then cool it in cold water."),
    ("Why is the sky blue?", "The air scatters blue light more than red light, so blue comes from everywhere."),
]


@pytest.fixture
def fluency() -> Fluency:
    return Fluency(tiny.model().eval(), tiny.tokenizer(), SETTINGS)


def by_hand(answer: str) -> float:
    words, model = tiny.tokenizer(), tiny.model().eval()
    prompt = words.apply_chat_template(list(tiny.CHAT), add_generation_prompt=True, return_dict=False)
    ids = [*words.encode(answer, add_special_tokens=False), tiny.END]
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([[*prompt, *ids]])).logits[0], dim=-1)
    return sum(min(log_probs[len(prompt) - 1 + i, token].item(), -2.0) for i, token in enumerate(ids)) / len(ids)


def test_it_is_the_mean_log_prob_below_the_floor(fluency: Fluency) -> None:
    texts = ["A", "A B C", "say it", "A"]
    scores = fluency.scores([tiny.CHAT] * 4, texts)
    assert scores == pytest.approx([by_hand(text) for text in texts], abs=1e-5)
    p = fluency([tiny.CHAT], ["A"], ["A B C"])
    assert p == pytest.approx([1 / (1 + math.exp((scores[1] - scores[0]) / 0.5))])
    assert fluency([tiny.CHAT], ["A B C"], ["A"]) == pytest.approx(1 - p)
    assert fluency([tiny.CHAT], ["A"], ["A"]) == [0.5]


def test_what_is_too_long_has_no_vote(fluency: Fluency) -> None:
    p = fluency([tiny.CHAT] * 2, ["A", "A"], ["B", "A B C A B C"])
    assert np.isnan(p).tolist() == [False, True]


def test_the_built_in_model_hears_what_makes_no_sense(builtin: Path) -> None:
    """The same words in another order; and a loop is no better than a sentence by more than the floor allows."""
    asked = preference_of(FluencySettings(kind="fluency", model="builtin:smollm2-135m", floor=1.0))
    chats: list[Chat] = [[{"role": "user", "content": question}] for question, _ in SENTENCES]
    answers = [answer for _, answer in SENTENCES]
    shuffled = [" ".join(random.Random(0).sample(words, len(words))) for words in map(str.split, answers)]
    assert (asked(chats, answers, shuffled) > 0.9).all()
    loops = [" ".join([answer] * 4) for answer in answers]
    assert isinstance(asked, Fluency)
    assert (asked.scores(chats, loops) <= -1.0).all()


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="model: .*nowhere"):
        preference_of(FluencySettings(kind="fluency", model=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("changes", [{"floor": -1}, {"scale": 0}, {"model": ""}, {"temperature": 1}])
def test_a_bad_setting_is_named(changes: dict[str, object]) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^fluency\.{next(iter(changes))}\b"):
        TypeAdapter(PreferenceSettings).validate_python({"kind": "fluency", "model": "m", **changes})
