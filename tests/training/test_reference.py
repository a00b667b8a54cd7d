"""Overlap with a reference as a voter."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from slhf_training.errors import SettingsError
from slhf_training.preference import Preference, PreferenceSettings, preference_of
from slhf_training.preference.reference import Reference
from slhf_training.types import Chat

CHAT: Chat = [{"role": "user", "content": "What is it?"}]
KEY = (("user", "What is it?"),)


def source(directory: Path, *rows: dict[str, Any], **settings: Any) -> Preference:
    file = directory / "rows.jsonl"
    file.write_text("".join(json.dumps({"prompt": "What is it?", **row}) + "\n" for row in rows))
    chosen = {"kind": "reference", "data": [{"files": [str(file)]}], **settings}
    return preference_of(TypeAdapter[Any](PreferenceSettings).validate_python(chosen))


def test_the_same_text_has_all_there_is_and_a_foreign_one_nothing() -> None:
    """chrF 100 and 0: sigmoid(100 / scale)."""
    asked = Reference({KEY: "a white cat"}, scale=50)
    p = asked([CHAT] * 3, ["a white cat", "xyz", "xyz"], ["xyz", "a white cat", "0123"])
    assert p == pytest.approx([1 / (1 + math.exp(-2)), 1 / (1 + math.exp(2)), 0.5])


def test_the_closer_one_wins(tmp_path: Path) -> None:
    asked = source(tmp_path, {"reference": "It is a white cat that sleeps in the sun."})
    assert asked([CHAT], ["A cat sleeps in the sun."], ["Cats: 1. Cats 2. Cats"])[0] > 0.9


def test_a_pairs_better_answer_is_a_reference_and_a_reference_comes_first(tmp_path: Path) -> None:
    pair = {"chosen": "a cat", "rejected": "a dog"}
    assert source(tmp_path, pair)([CHAT], ["a cat"], ["a dog"])[0] > 0.9
    assert source(tmp_path, {**pair, "reference": "a dog"})([CHAT], ["a cat"], ["a dog"])[0] < 0.1


def test_it_abstains_where_there_is_no_reference(tmp_path: Path) -> None:
    other: Chat = [{"role": "user", "content": "What else?"}]
    p = source(tmp_path, {"reference": "a cat"}, {"response": "b"})([CHAT, other], ["a", "a"], ["b", "b"])
    assert [math.isnan(value) for value in p] == [False, True]


def test_data_without_any_reference_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="data: no row has a reference or a pair"):
        source(tmp_path, {"response": "a cat"})


@pytest.mark.parametrize("changes", [{"scale": 0}, {"data": []}, {"metric": "bleu"}])
def test_a_bad_setting_is_named(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=rf"(?m)^reference\.{next(iter(changes))}\b"):
        source(tmp_path, {"reference": "a"}, **changes)
