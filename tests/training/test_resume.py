"""A run that is killed goes on as if it had not been: four steps are two, kill -9, and two more, bit for bit."""

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slhf_training.cli import main
from slhf_training.errors import SettingsError
from slhf_training.fit import FitSettings
from slhf_training.fit.run import changed, start_run
from slhf_training.fit.trainer import GameTrainer
from slhf_training.fit.validation import FILE
from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as

STEPS = 4
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "from tests.training.test_resume import train; import sys; train(sys.argv[1], sys.argv[2:])"


def train(directory: str, options: list[str]) -> None:
    """Run in a process of its own. `--die`: kill -9 in the third step, after the checkpoint of the second."""
    torch.set_num_threads(1)
    optimisation = {"steps": STEPS, "schedule": "cosine"}
    settings = tiny.settings(Path(directory), optimisation=optimisation, save_every=2, seed=5, ema_decay=0.5)
    judged = 0

    def preference(chats: object, first: list[str], second: list[str]) -> object:
        nonlocal judged
        judged += 1
        if "--die" in options and judged == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return fewer_as([], first, second)

    last = str(Path(directory) / "checkpoint-2") if "--resume" in options else None
    tiny.trainer(settings, preference, CHATS).train(resume_from_checkpoint=last)


def run(directory: Path, *options: str) -> int:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", SCRIPT, str(directory), *options]
    return subprocess.run(command, env=environment, timeout=240, check=False, cwd=ROOT).returncode


def test_two_steps_kill_and_two_more_are_four_steps_to_the_bit(tmp_path: Path) -> None:
    assert run(tmp_path / "whole") == 0
    assert run(tmp_path / "killed", "--die") == -signal.SIGKILL
    assert {p.name for p in (tmp_path / "killed").iterdir() if p.is_dir()} == {"checkpoint-2"}
    assert run(tmp_path / "killed", "--resume") == 0
    whole, resumed = (tmp_path / name / f"checkpoint-{STEPS}" for name in ("whole", "killed"))
    for adapter in ("leader", "follower", "ema/leader", "ema/follower"):
        one, other = (load_file(p / adapter / "adapter_model.safetensors") for p in (whole, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(whole) == logged(resumed)


def logged(checkpoint: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in entry.items() if "second" not in k} for entry in history]


def test_a_resumed_run_learns_at_the_rates_of_its_settings(tmp_path: Path) -> None:
    def trainer(**optimisation: object) -> GameTrainer:
        given = {"steps": 3, "schedule": "linear", "learning_rate": 1e-2} | optimisation
        settings = tiny.settings(tmp_path, optimisation=given, game={"kappa": 2.0}, save_every=1, keep_checkpoints=3)
        return tiny.trainer(settings, fewer_as, CHATS)

    trainer().train()
    resumed = trainer(learning_rate=3e-4, weight_decay=0.5, betas=(0.5, 0.6), steps=4)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    rates = [entry["learning_rate"] for entry in resumed.state.log_history if "learning_rate" in entry]
    assert rates == pytest.approx([1e-2, 3e-4 * 3 / 4, 3e-4 * 2 / 4, 3e-4 / 4])
    groups = resumed.optimizer.param_groups
    assert {(group["weight_decay"], tuple(group["betas"])) for group in groups} == {(0.5, (0.5, 0.6))}
    assert sorted(group["initial_lr"] for group in groups) == pytest.approx([3e-4, 6e-4])


def settings(directory: Path, **changes: Any) -> FitSettings:
    """As read from a configuration, whose paths are whole."""
    return tiny.settings(directory, data={"files": ["/chats.jsonl"]}, **changes)


def test_what_differs_from_the_run_that_goes_on_is_named(tmp_path: Path) -> None:
    start_run(settings(tmp_path))
    now = settings(tmp_path, optimisation={"learning_rate": 5e-3}, drafts=None, seed=3)
    assert changed(now) == ["optimisation.learning_rate: 0.01 before, 0.005 now", "seed: 0 before, 3 now"]
    assert changed(settings(tmp_path)) == []


@pytest.mark.parametrize(
    ("key", "value"), [("model", "other"), ("weights", "shared"), ("lora", {"r": 4}), ("algorithm", "rloo")]
)
def test_what_makes_another_run_is_refused(tmp_path: Path, key: str, value: Any) -> None:
    start_run(settings(tmp_path))
    with pytest.raises(SettingsError, match=f"^{key}.*another run"):
        changed(settings(tmp_path, **{key: value}))


def test_a_run_that_was_moved_or_wrote_no_settings_goes_on(tmp_path: Path) -> None:
    assert changed(settings(tmp_path)) == []
    start_run(settings(tmp_path / "old"))
    (tmp_path / "old").rename(tmp_path / "new")
    assert changed(settings(tmp_path / "new")) == []


def test_the_command_takes_each_chat_once_and_names_what_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tiny.model().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    rows = [{"prompt": "which"}, {"prompt": "which"}, {"prompt": "that"}]
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    config: dict[str, Any] = {
        "model": "./model",
        "output_dir": "run",
        "data": {"files": ["chats.jsonl"]},
        "preference": {"kind": "callable", "function": "tests.training.test_trainer:fewer_as"},
        "lora": {"r": 2, "alpha": 4},
        "optimisation": {"steps": 1, "batch_size": 2},
        "rollout": {"max_new_tokens": 2, "dtype": "float32"},
        "report_to": [],
    }

    def fit(*options: str) -> tuple[int, str]:
        (tmp_path / "fit.yaml").write_text(json.dumps(config), encoding="utf-8")
        return main(["fit", str(tmp_path / "fit.yaml"), *options]), capsys.readouterr().err

    (tmp_path / "held.jsonl").write_text('{"prompt": "A"}', encoding="utf-8")
    judge = {"kind": "callable", "function": "tests.training.test_distributed:hardly_judging"}
    config |= {"save_every": 1, "validation": {"data": {"files": ["held.jsonl"]}, "preference": judge, "every": 1}}
    code, said = fit()
    assert len((tmp_path / "run" / FILE).read_text(encoding="utf-8").splitlines()) == 1
    assert (code, "3 rows ask 2 different chats, each of which is taken once" in caplog.text) == (0, True)
    config["optimisation"] |= {"steps": 2, "learning_rate": 1e-6}
    code, said = fit("--resume")
    assert (code, "--resume: optimisation.learning_rate: 0.0001 before, 1e-06 now" in said) == (0, True)
    config["lora"]["r"] = 8
    code, said = fit("--resume")
    assert (code, "lora.r: 2 before, 8 now: that is another run" in said) == (1, True)
    assert json.loads((tmp_path / "run" / "settings.json").read_text(encoding="utf-8"))["lora"]["r"] == 2
