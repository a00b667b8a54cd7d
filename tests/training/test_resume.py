"""A run that is killed goes on as if it had not been: four steps are two, kill -9, and two more, bit for bit."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as

STEPS = 4
ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "from tests.training.test_resume import train; import sys; train(sys.argv[1], sys.argv[2:])"


def train(directory: str, options: list[str]) -> None:
    """Run in a process of its own. `--die`: kill -9 in the third step, after the checkpoint of the second."""
    torch.set_num_threads(1)
    settings = tiny.settings(Path(directory), optimisation={"steps": STEPS, "schedule": "cosine"}, save_every=2, seed=5)
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
    for adapter in ("leader", "follower"):
        one, other = (load_file(p / adapter / "adapter_model.safetensors") for p in (whole, resumed))
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert logged(whole) == logged(resumed)


def logged(checkpoint: Path) -> list[dict[str, float]]:
    """The log without what depends on the clock."""
    history = json.loads((checkpoint / "trainer_state.json").read_text())["log_history"]
    return [{k: v for k, v in entry.items() if "second" not in k} for entry in history]
