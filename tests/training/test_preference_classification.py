"""Reward models of the hub: scores are those that transformers gives each text alone; padding is no text's end."""

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from slhf_training.errors import SettingsError
from slhf_training.preference.classification import (
    ClassificationSettings,
    SequenceClassification,
    classification_of,
)
from slhf_training.types import Chat, sigmoid
from tests.training import tiny

CHATS: list[Chat] = [[{"role": "user", "content": text}] for text in ("which is it", "b", "A long question, again?")]
ANSWERS = ["A", "B, and then more of it", "C" * 30]


def written(directory: Path, *labels: str) -> Path:
    words = tiny.byte_tokenizer()
    words.save_pretrained(directory)
    config = tiny.config(len(words), words.eos_token_id, hidden_size=32, initializer_range=0.2)
    config.id2label = dict(enumerate(labels))
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(directory)
    return directory


def source(directory: Path, **changes: object) -> SequenceClassification:
    settings = {"kind": "sequence-classification", "model": str(directory)} | changes
    found = classification_of(ClassificationSettings.model_validate(settings))
    assert isinstance(found, SequenceClassification)
    return found


@torch.no_grad()
def alone(directory: Path, label: int = 0) -> list[float]:
    """What transformers makes of each text by its template, in the precision of this machine."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    model = AutoModelForSequenceClassification.from_pretrained(
        directory, dtype=source(directory, label="x").model.dtype
    )
    found = []
    for chat, answer in zip(CHATS, ANSWERS, strict=True):
        prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        ids = tokenizer(prompt + answer + tokenizer.eos_token, return_tensors="pt", add_special_tokens=False).input_ids
        model.config.pad_token_id = None
        found.append(float(model(input_ids=ids).logits[0, label]))
    return found


@pytest.mark.parametrize("batch_tokens", [1, 100, 16_384])
def test_scores_are_those_of_each_text_alone(batch_tokens: int, tmp_path: Path) -> None:
    """Also where the end's id is the padding's, as this tokenizer has it."""
    found = source(written(tmp_path, "x"), batch_tokens=batch_tokens).scores(CHATS, ANSWERS)
    assert found == pytest.approx(alone(tmp_path), abs=2e-2)
    assert np.std(found) > 0.1


def test_a_difference_of_scores_is_a_preference(tmp_path: Path) -> None:
    one = source(written(tmp_path, "x"), scale=2.0)
    a, b = one.scores(CHATS, ANSWERS), one.scores(CHATS, ANSWERS[::-1])
    p = one(CHATS, ANSWERS, ANSWERS[::-1])
    assert p == pytest.approx(sigmoid((a - b) / 2))
    assert p + one(CHATS, ANSWERS[::-1], ANSWERS) == pytest.approx([1, 1, 1])


def test_a_text_that_is_too_long_has_no_score(tmp_path: Path) -> None:
    one = source(written(tmp_path, "x"), max_tokens=40)
    assert np.isnan(one(CHATS[:1] * 2, ["A", "A"], ["B", "C" * 60])).tolist() == [False, True]


def test_of_several_labels_one_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"label: .* has several: x, y"):
        source(written(tmp_path, "x", "y"))
    with pytest.raises(SettingsError, match=r"label: .* has x, y, and not 'z'"):
        source(tmp_path, label="z")
    assert source(tmp_path, label="y").scores(CHATS, ANSWERS) == pytest.approx(alone(tmp_path, 1), abs=2e-2)


def test_a_model_without_a_head_is_refused(tmp_path: Path) -> None:
    """transformers would make one of random numbers."""
    words = tiny.byte_tokenizer()
    words.save_pretrained(tmp_path)
    LlamaForCausalLM(tiny.config(len(words), 0, hidden_size=32, initializer_range=0.2)).save_pretrained(tmp_path)
    with pytest.raises(SettingsError, match=r"model: .* is no reward model: it has no weights for score.weight"):
        source(tmp_path)


def test_a_model_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"model: .*absent"):
        source(tmp_path / "absent")
