"""Configurations of `evaluate`: what is wrong is named before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from slhf_training.config import read_config, read_mapping
from slhf_training.errors import SettingsError
from slhf_training.evaluation import evaluate_settings
from tests.training.evaluation.fakes import configuration


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        ({"round_robin": {"players": ["base", "gpt"]}}, "'gpt' is none of the models base, slhf"),
        ({"round_robin": {"players": ["base", "base >"]}}, "round_robin.players.1: .*beside '>'"),
        ({"refinement": {"leaders": [], "followers": ["slhf"]}}, "refinement.leaders"),
        ({"refinement": {"leaders": ["slhf"], "followers": ["base", "no"]}}, "'no' is none of"),
        ({"models": {"a > b": {"bundle": "x/y"}}}, "'a > b' is no name"),
        ({"models": {"a": {}}}, "models.a: .*exactly one of bundle and drafts"),
        ({"models": {"a": {"bundle": "x/y", "model": "z"}}}, "models.a: .*model chooses among drafts"),
        (
            {"models": {"a": {"drafts": "x.jsonl"}}, "round_robin": {"players": ["a", "a > a"]}},
            "'a' is a file of drafts and refines nothing",
        ),
        ({"models": {"a": {"drafts": "x.jsonl"}}, "cycles": {"models": ["a"]}}, "'a' is a file of drafts and cannot"),
        ({"cycles": {"models": ["no"]}}, "'no' is none of the models"),
        ({"ifeval": {"players": ["slhf"]}}, "ifeval: .*at least one of files and hub"),
        ({"generation": {"generator": "magic"}}, "generation.generator"),
        ({"tables": {}}, "tables: Extra inputs"),
    ],
)
def test_what_is_wrong_is_named(sections: dict[str, Any], message: str, tmp_path: Path) -> None:
    path = tmp_path / "evaluate.yaml"
    path.write_text(yaml.safe_dump({**configuration(tmp_path), **sections}))
    with pytest.raises(SettingsError, match=message):
        read_config(path, evaluate_settings())


def test_keys_of_another_file_stand_instead(tmp_path: Path) -> None:
    path, other = tmp_path / "evaluate.yaml", tmp_path / "instead" / "other.yaml"
    path.write_text(yaml.safe_dump(configuration(tmp_path)))
    other.parent.mkdir()
    other.write_text("output_dir: elsewhere\nresamples: 7\n")
    found = read_config(path, evaluate_settings(), read_mapping(other))
    assert (found.output_dir, found.resamples) == (tmp_path / "elsewhere", 7)
    assert list(found.models) == ["base", "slhf"]


def test_a_file_that_is_no_mapping_is_named(tmp_path: Path) -> None:
    path = tmp_path / "list.yaml"
    path.write_text("- a\n")
    with pytest.raises(SettingsError, match="list.yaml: expected keys and values, got list"):
        read_config(path, evaluate_settings())
