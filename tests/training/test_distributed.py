"""Two processes (gloo, CPU) on half the batch each train like one process on the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.training import tiny
from tests.training.test_trainer import CHATS, fewer_as

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = "from tests.training.test_distributed import train; import sys; train(sys.argv[1], int(sys.argv[2]))\n"


def train(directory: str, batch_size: int) -> None:
    torch.set_num_threads(1)
    settings = tiny.settings(
        Path(directory),
        optimisation={"steps": 3, "batch_size": batch_size, "micro_batch_size": 4},
        game={"baseline": "leave_one_out"},
    )
    tiny.trainer(settings, fewer_as, CHATS).train()


def run(directory: Path, processes: int, batch_size: int) -> list[dict[str, float]]:
    script = directory.parent / "train.py"
    script.write_text(SCRIPT)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "OMP_NUM_THREADS": "1"}
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"] if processes > 1 else []
    command = [sys.executable, *launcher, str(script), str(directory), str(batch_size)]
    subprocess.run(command, env=environment, timeout=240, check=True, cwd=ROOT)
    history = json.loads((directory / "checkpoint-3" / "trainer_state.json").read_text())["log_history"]
    return [entry for entry in history if "loss" in entry]


def test_two_processes_give_the_loss_curve_of_one_with_twice_the_batch(tmp_path: Path) -> None:
    """Answers depend on their seeds alone, so both play the same games; sums differ in float32's last digits."""
    one, two = run(tmp_path / "one", 1, 8), run(tmp_path / "two", 2, 4)
    for key in ("loss", "leader/reward", "follower/reward", "leader/kl", "follower/kl", "follower/grad_norm"):
        assert [e[key] for e in two] == pytest.approx([e[key] for e in one], rel=2e-3, abs=1e-5), key
