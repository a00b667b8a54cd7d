"""A run's directory: the settings it was started with, and its checkpoints."""

import json
from pathlib import Path
from typing import Any

from slhf_training.config import read_config
from slhf_training.errors import SettingsError
from slhf_training.fit.settings import FitSettings

SETTINGS = "settings.json"


def start_run(settings: FitSettings) -> None:
    settings.output_dir.mkdir(parents=True, exist_ok=True)
    (settings.output_dir / SETTINGS).write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")


def settings_of(run: Path) -> FitSettings:
    """Raises SettingsError where the directory is no run's."""
    path = run / SETTINGS
    if not path.is_file():
        raise SettingsError(f"{run}: no {SETTINGS} is in it, so it is not the output directory of a fit")
    return read_config(path, FitSettings)


def last_checkpoint(run: Path) -> Path | None:
    found = _checkpoints(run)
    return found[max(found)] if found else None


def checkpoint_of(run: Path, step: int | None) -> Path:
    """The checkpoint after that step, or the last. Raises SettingsError where there is none."""
    found = _checkpoints(run)
    if not found or (step is not None and step not in found):
        raise SettingsError(f"{run}: no checkpoint {'' if step is None else step} in it; there are {sorted(found)}")
    return found[max(found) if step is None else step]


def last_metrics(checkpoint: Path) -> dict[str, Any]:
    """What the training log said last."""
    history = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))["log_history"]
    return dict(history[-1]) if history else {}


def _checkpoints(run: Path) -> dict[int, Path]:
    return {int(path.name.removeprefix("checkpoint-")): path for path in run.glob("checkpoint-*") if path.is_dir()}
