"""Configurations as people write them: YAML 1.2's scalars, empty sections, and what is passed on to vLLM."""

from pathlib import Path
from typing import Any

import pytest

from slhf_training.config import read_config
from slhf_training.errors import SettingsError
from slhf_training.evaluation import GenerationSettings
from slhf_training.fit import FitSettings
from slhf_training.reward import RewardTraining

FIT = "model: m\noutput_dir: out\ndata: {files: [a.jsonl]}\npreference: {kind: reward, model: judge}\n"
HEADS = "backbone: b\noutput: o\ntraining: {method: probe}\n"
HEAD = "{loss: regression, attribute: help, data: {files: [a.jsonl]}}"


@pytest.fixture
def fit(tmp_path: Path) -> Any:
    def read(lines: str) -> FitSettings:
        path = tmp_path / "fit.yaml"
        path.write_bytes((FIT + lines).encode())
        return read_config(path, FitSettings)

    return read


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1e-5", 1e-5),
        ("1E-5", 1e-5),
        ("1.0e-5", 1e-5),
        (".1e-4", 1e-5),
        ("0.00001", 1e-5),
        ("1", 1.0),
        ("'1e-5'", 1e-5),
    ],
)
def test_a_learning_rate_is_a_number_however_it_is_written(fit: Any, text: str, number: float) -> None:
    assert fit(f"optimisation: {{learning_rate: {text}}}").optimisation.learning_rate == number


@pytest.mark.parametrize(
    ("text", "number"), [("010", 10), ("0o12", 10), ("0xA", 10), ("1_0", 10), ("1e1", 10), ("10.0", 10)]
)
def test_a_whole_number_is_read_in_every_spelling_of_it(fit: Any, text: str, number: int) -> None:
    assert fit(f"rollout: {{batch_size: {text}}}").rollout.batch_size == number


@pytest.mark.parametrize("text", ["1:30", "2024-01-01", "1e", "0b11", "four"])
def test_what_is_no_number_is_refused_as_it_was_written(fit: Any, text: str) -> None:
    with pytest.raises(SettingsError, match=rf"rollout\.batch_size: .*got '{text}'"):
        fit(f"rollout: {{batch_size: {text}}}")


@pytest.mark.parametrize(
    "lines", ["game:\noptimisation: ~\nrollout: null\n", "game: {kappa: }\nrollout: {vllm: }\n", ""]
)
def test_what_stands_empty_is_not_given(fit: Any, lines: str) -> None:
    assert fit(lines) == fit("")


def test_null_stays_where_it_says_something(tmp_path: Path) -> None:
    path = tmp_path / "generation.yaml"
    path.write_text("temperature: ~\nseed: ~\n")
    assert read_config(path, GenerationSettings) == GenerationSettings(temperature=None)


def test_an_unknown_key_is_named_also_where_it_stands_empty(fit: Any) -> None:
    with pytest.raises(SettingsError, match=r"game\.gamma: Extra inputs"):
        fit("game: {gamma: }")


@pytest.mark.parametrize("name", ["no", "yes", "on", "off", "null", "true", "1", "010", "1e-5_"])
def test_a_head_may_have_any_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / "heads.yaml"
    path.write_text(f"{HEADS}heads:\n  {name}: &one {HEAD}\n  other: {{<<: *one, attribute: other}}\n")
    heads = read_config(path, RewardTraining).heads
    assert {key: head.attribute for key, head in heads.items()} == {name: "help", "other": "other"}


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("On", "On"), ("true", True), ("3", 3), ("'3'", "3"), ("0.5", 0.5), ("2024-01-01", "2024-01-01")],
)
def test_a_column_is_compared_with_what_was_written(fit: Any, text: str, value: Any) -> None:
    settings = fit(f"drafts: {{data: [{{files: [a.jsonl], where: {{country: {text}}}}}]}}")
    (found,) = settings.drafts.data[0].where.values()
    assert repr(found) == repr(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True),
        ("Off", False),
        ("'no'", "no"),
        ("true", True),
        ("1e-5", 1e-5),
        ("~", None),
        ("[on, {x: no}]", [True, {"x": False}]),
    ],
)
def test_what_is_passed_on_to_vllm_is_read_as_vllm_reads_its_own_files(fit: Any, text: str, value: Any) -> None:
    assert repr(fit(f"rollout: {{engine: vllm, vllm: {{x: {text}}}}}").rollout.vllm["x"]) == repr(value)
