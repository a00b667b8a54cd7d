"""`slhf-train check`: what it estimates is what a model really has, and its step leaves nothing behind."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from slhf_training.cli import main
from slhf_training.config import read_config
from slhf_training.fit import FitSettings
from slhf_training.fit.check import estimate
from slhf_training.fit.trainer import build_roles, load_model
from tests.training import tiny

BASE: dict[str, Any] = {
    "model": "./model",
    "output_dir": "run",
    "data": {"files": ["chats.jsonl"]},
    "preference": {"kind": "callable", "function": "tests.training.test_trainer:fewer_as"},
    "lora": {"r": 2, "alpha": 4},
    "optimisation": {"steps": 500, "batch_size": 2, "micro_batch_size": 3},
    "rollout": {"max_new_tokens": 2, "max_prompt_tokens": 6, "dtype": "bfloat16", "batch_size": 5},
    "report_to": ["tensorboard"],
}


def written(directory: Path, **changes: Any) -> Path:
    tiny.model().save_pretrained(directory / "model")
    tiny.tokenizer().save_pretrained(directory / "model")
    rows = [{"prompt": "which"}, {"prompt": "that"}, {"prompt": "A B C A B C A B C"}]
    (directory / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (directory / "held.jsonl").write_text('{"prompt": "A"}', encoding="utf-8")
    (directory / "fit.yaml").write_text(json.dumps(BASE | changes), encoding="utf-8")
    return directory / "fit.yaml"


@pytest.mark.parametrize("weights", ["separate", "shared", "full"])
def test_the_estimate_counts_what_the_model_has(weights: str, tmp_path: Path) -> None:
    settings = read_config(written(tmp_path, weights=weights, ema_decay=0.9), FitSettings)
    parts = estimate(settings).parts
    roles = build_roles(settings, load_model(settings)[1])
    held = sum(parameter.numel() for parameter in load_model(settings)[1].parameters())
    learnt = sum(p.numel() for parameters in {id(v): v for v in roles.trained.values()}.values() for p in parameters)
    assert parts["the model"] == 4 * held
    assert parts["adapters"] == (0 if weights == "full" else 4 * learnt)
    assert (parts["gradients"], parts["the optimiser"]) == (4 * learnt, 8 * learnt)
    assert parts["the moving average"] == 4 * learnt
    assert parts["copies of it (what samples, the reference)"] == 2 * held
    assert (
        parts["keys and values of a batch that is sampled"] == 5 * 8 * 2 * 2 * 2 * 16 * 2
    )  # two layers, two heads of 16


def test_sharding_divides_what_is_trained(tmp_path: Path) -> None:
    """It does not divide the copies, of which there is one more: what samples. vLLM's is in its engine."""
    settings = read_config(written(tmp_path, weights="full"), FitSettings)
    whole, part = estimate(settings).parts, estimate(settings, processes=4, sharded=True).parts
    for name in ("the model", "gradients", "the optimiser"):
        assert part[name] == whole[name] // 4 > 0
    copies = "copies of it (what samples, the reference)"
    assert part[copies] == 2 * whole[copies]
    engine = settings.rollout.model_copy(update={"engine": "vllm"})
    by_engine = estimate(settings.model_copy(update={"rollout": engine}), processes=4, sharded=True).parts
    assert by_engine[copies] == whole[copies]


def test_one_step_is_taken_and_nothing_is_left(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = {"kind": "callable", "function": "tests.training.test_distributed:hardly_judging"}
    validation = {"data": {"files": ["held.jsonl"]}, "preference": judge, "every": 50}
    file = written(tmp_path, validation=validation)
    before = {path.name for path in tmp_path.iterdir()}
    assert main(["check", str(file)]) == 0
    said = capsys.readouterr().out
    assert "prompts: 3, 1 of them over 6 tokens and dropped; tokens: median 4, 95 % below" in said
    assert "one pass over them is 1 steps" in said
    assert re.search(r"one step, in seconds: .*judge \d+\.\d, .*rollout", said)
    assert re.search(r"memory at its peak: \d+\.\d\d GiB", said)
    assert {path.name for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "./absent"}, "model: "),
        ({"preference": {"kind": "callable", "function": "judges.absent:best"}}, "function: judges.absent:best"),
        ({"data": {"files": ["absent.jsonl"]}}, "absent.jsonl"),
        ({"optimisation": {"batch_size": 3}}, "do not fill one batch of 3"),
    ],
)
def test_what_is_wrong_is_said_before_anything_costs(
    changes: dict[str, Any], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", str(written(tmp_path, **changes))]) == 1
    assert said in capsys.readouterr().err
