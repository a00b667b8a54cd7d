"""The moving average of trained weights: it is the average, it goes on, and it becomes a bundle."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from slhf import read_bundle
from slhf_training.cli import main
from slhf_training.fit.ema import FOLDER
from tests.training import tiny
from tests.training.test_export import trained_run
from tests.training.test_trainer import CHATS, fewer_as

STEPS, DECAY = 4, 0.75


def weights(directory: Path) -> dict[str, torch.Tensor]:
    """Of a checkpoint, or of the average in it."""
    files = [path for path in directory.rglob("*model.safetensors") if path.relative_to(directory).parts[0] != FOLDER]
    return {f"{path.parent.relative_to(directory)}/{k}": v for path in files for k, v in load_file(path).items()}


@pytest.mark.parametrize("kind", ["separate", "shared", "full"])
def test_it_is_the_mean_of_all_steps_in_which_later_ones_count_more(kind: str, tmp_path: Path) -> None:
    optimisation = {"steps": STEPS, "schedule": "constant"}
    fit = tiny.settings(
        tmp_path, weights=kind, ema_decay=DECAY, save_every=1, keep_checkpoints=STEPS, optimisation=optimisation
    )
    trainer = tiny.trainer(fit, fewer_as, CHATS)
    trainer.train()
    steps = [weights(tmp_path / f"checkpoint-{step}") for step in range(1, STEPS + 1)]
    shares = torch.tensor([DECAY ** (STEPS - step) for step in range(1, STEPS + 1)], dtype=torch.float64)
    found = weights(tmp_path / f"checkpoint-{STEPS}" / FOLDER)
    assert found.keys() == steps[-1].keys()
    for name, value in found.items():
        mean = sum(share * step[name].double() for share, step in zip(shares, steps, strict=True)) / shares.sum()
        torch.testing.assert_close(value.double(), mean, rtol=0, atol=1e-6)
    moved = [not torch.equal(value, steps[-1][name]) for name, value in found.items()]
    assert sum(moved) > len(moved) / 2


def test_a_run_that_turns_it_on_begins_with_its_weights(tmp_path: Path) -> None:
    """They stand for the steps before."""
    changes: dict[str, Any] = {"optimisation": {"steps": 2, "schedule": "constant"}, "save_every": 1}
    tiny.trainer(tiny.settings(tmp_path, **changes), fewer_as, CHATS).train()
    before, after = (weights(tmp_path / f"checkpoint-{step}") for step in (1, 2))
    fit = tiny.settings(tmp_path, ema_decay=0.5, **changes)
    tiny.trainer(fit, fewer_as, CHATS).train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    for name, value in weights(tmp_path / "checkpoint-2" / FOLDER).items():
        torch.testing.assert_close(value, (before[name] + 2 * after[name]) / 3, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", ["shared", "full"])
def test_it_is_exported_beside_the_last_weights(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_run(tmp_path, weights=kind, ema_decay=DECAY)
    command = ["export", str(tmp_path / "run")]
    assert main([*command, str(tmp_path / "mean"), "--ema"]) == 0
    assert main([*command, str(tmp_path / "last")]) == 0
    for name, kept in (
        ("mean", tmp_path / "run" / "checkpoint-2" / FOLDER),
        ("last", tmp_path / "run" / "checkpoint-2"),
    ):
        found, expected = weights(tmp_path / name), weights(kept)
        assert expected.keys() <= found.keys()
        assert all(torch.equal(found[key], value) for key, value in expected.items()), name
    said = [read_bundle(tmp_path / name).training["ema"] for name in ("mean", "last")]
    assert said == [DECAY, None]
    assert main([*command, str(tmp_path / "both"), "--ema", "--average", "2"]) == 1
    assert "--average does not go together with --ema" in capsys.readouterr().err


def test_a_run_without_one_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained_run(tmp_path)
    assert main(["export", str(tmp_path / "run"), str(tmp_path / "bundle"), "--ema"]) == 1
    assert "--ema" in capsys.readouterr().err
    assert not (tmp_path / "bundle").exists()
