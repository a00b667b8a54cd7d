"""A run's directory: its settings and checkpoints, and from one of them a bundle that the server loads unchanged.

A base model that lies in a directory is copied into the bundle; one from the hub or built in is named. Merging leaves
no adapters: it needs roles that share their weights.

`Interpolation` goes part of the way to a run: from the base model, by the adapters' product, or from another run that
it started from, by the adapters' factors. What was learnt last at the price of what was known is often had for less of
it (LITI in WARP, arXiv 2406.16768). A lower rank makes adapters smaller: each becomes its nearest of that rank.
"""

import json
import logging
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from slhf import Bundle, RoleWeights, SamplingDefaults, write_bundle
from slhf.bundle import CARD, MANIFEST
from slhf.json_text import read_json
from slhf.weights import difference, logits_of, write_model
from slhf_training.config import portable, read_config
from slhf_training.errors import SettingsError
from slhf_training.fit import FitSettings, Kept
from slhf_training.fit.ema import FOLDER
from slhf_training.fit.trainer import build_roles, load_model
from slhf_training.models.adapters import (
    CONFIG,
    WEIGHTS,
    cast,
    factors_of,
    mixed,
    name_base,
    scaled,
    truncate,
    write_factors,
)
from slhf_training.models.load import base_directory, load_written
from slhf_training.models.roles import DTYPES, Roles
from slhf_training.models.sharding import this_process
from slhf_training.reward.bundled import carry

SETTINGS = "settings.json"
_LOG = logging.getLogger(__name__)


def start_run(settings: Kept) -> None:
    """Write the settings beside the checkpoints, from one process of several."""
    if this_process().is_main_process:
        settings.output_dir.mkdir(parents=True, exist_ok=True)
        (settings.output_dir / SETTINGS).write_text(settings.model_dump_json(indent=2) + "\n", encoding="utf-8")


def settings_of(run: Path) -> FitSettings:
    """Raises SettingsError where the directory is no run's."""
    path = run / SETTINGS
    if not path.is_file():
        raise SettingsError(f"{run}: no {SETTINGS} is in it, so it is not the output directory of a fit")
    return read_config(path, FitSettings)


def changed(settings: Kept) -> list[str]:
    """What differs from the settings that the run in their `output_dir` had before, a line for each key.

    The checkpoints of a run that wrote no settings are taken as they are. Raises SettingsError where a key differs
    that makes it another run (`Kept.fixed`).
    """
    path = settings.output_dir / SETTINGS
    if not path.is_file():
        return []
    before, now = (_flat(one.model_dump(mode="json")) for one in (read_config(path, type(settings)), settings))
    keys = [key for key in sorted(before | now) if key != "output_dir" and before.get(key) != now.get(key)]
    lines = [f"{key}: {json.dumps(before.get(key))} before, {json.dumps(now.get(key))} now" for key in keys]
    if fixed := [line for key, line in zip(keys, lines, strict=True) if key.partition(".")[0] in settings.fixed]:
        raise SettingsError(f"{'; '.join(fixed)}: that is another run; give it an output_dir of its own")
    return lines


def goes_on_from(settings: Kept) -> Path | None:
    """The last checkpoint, if there is one; what changed since is logged. Raises SettingsError as `changed` does."""
    last = last_checkpoint(settings.output_dir)
    for line in changed(settings) if last is not None else ():
        _LOG.warning("going on from %s: %s", last, line)
    return last


def _flat(value: Any, key: str = "") -> dict[str, Any]:
    """A nested mapping by dotted keys."""
    if not isinstance(value, dict) or not value:
        return {key: value}
    return {k: v for name, inner in value.items() for k, v in _flat(inner, f"{key}.{name}" if key else name).items()}


def last_checkpoint(run: Path) -> Path | None:
    found = _checkpoints(run)
    return found[max(found)] if found else None


def checkpoint_of(run: Path, step: int | None) -> Path:
    """The checkpoint after that step, or the last. Raises SettingsError where there is none."""
    found = _checkpoints(run)
    if not found or (step is not None and step not in found):
        raise SettingsError(f"{run}: no checkpoint {'' if step is None else step} in it; there are {sorted(found)}")
    return found[max(found) if step is None else step]


def best_step(run: Path) -> int:
    """The step whose validation was the best. Raises SettingsError where there was none."""
    last = checkpoint_of(run, None)
    best = json.loads((last / "trainer_state.json").read_text(encoding="utf-8")).get("best_global_step")
    if best is None:
        raise SettingsError(f"--best: {run} had no validation")
    return int(best)


def last_metrics(checkpoint: Path) -> dict[str, Any]:
    """The last entry of the training log; empty where there is none."""
    history = history_of(checkpoint)
    return dict(history[-1]) if history else {}


def history_of(checkpoint: Path) -> list[dict[str, Any]]:
    """The training log up to a checkpoint, an entry for each step that was logged and for each validation."""
    state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    return list(state["log_history"])


def _checkpoints(run: Path) -> dict[int, Path]:
    return {_step(path): path for path in run.glob("checkpoint-*") if path.is_dir()}


@dataclass(frozen=True, slots=True)
class Interpolation:
    share: float
    """How far on the way it is: 0 is the start, 1 the run."""
    start: Path | None = None
    """The run where it starts; None: the base model."""
    step: int | None = None
    """Which checkpoint of `start`; None: the last."""


def export(
    run: Path,
    target: Path,
    name: str,
    *,
    step: int | None = None,
    merge: bool = False,
    dtype: str | None = None,
    evaluation: Path | None = None,
    interpolation: Interpolation | None = None,
    rank: int | None = None,
    average: int | None = None,
    judge: Path | None = None,
    judge_head: str | None = None,
    ema: bool = False,
) -> Bundle:
    """Write the bundle; `step` chooses the checkpoint (None: the last), `dtype` and `rank` are those of what is written
    (None: as trained; only adapters have a rank). `average`: the adapters' factors are the means of so many
    checkpoints' up to that one. `ema`: the moving average at that step instead of its own weights. `judge`: a directory
    of `slhf-train reward` that the bundle carries, with `judge_head` as the head that judges (None: the only one).
    `target` appears when it is whole.

    Raises SettingsError for a run that cannot be exported so, and where the target exists.
    """
    settings = settings_of(run)
    checkpoint = checkpoint_of(run, step)
    if target.exists():
        raise SettingsError(f"{target} exists already")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=f".{target.name}.") as temporary:
        staging = Path(temporary) / "bundle"
        staging.mkdir()
        weights = _moving_average(checkpoint) if ema else checkpoint
        if interpolation is not None:
            end, weights = weights, Path(temporary) / "between"
            _interpolate(settings, end, interpolation, weights)
        if average is not None:
            if interpolation is not None or ema:
                raise SettingsError(f"--average does not go together with {'--ema' if ema else '--share'}")
            weights = Path(temporary) / "mean"
            _average(settings, run, checkpoint, average, weights)
        parts = _weights(settings, weights, staging, merge, dtype, rank)
        if judge is not None:
            copied = not merge and settings.weights != "full" and Path(settings.model).is_dir()
            parts["judge"] = carry(judge, judge_head, staging, Path(settings.model) if copied else None)
        bundle = write_bundle(
            staging, _manifest(settings, checkpoint, name, parts, evaluation, interpolation, rank, average, ema)
        )
        staging.rename(target)
    return bundle


def _moving_average(checkpoint: Path) -> Path:
    found = checkpoint / FOLDER
    if not found.is_dir():
        raise SettingsError(f"--ema: {checkpoint} has no moving average; ema_decay of fit keeps one")
    return found


def _interpolate(settings: FitSettings, checkpoint: Path, between: Interpolation, target: Path) -> None:
    """Adapters as a checkpoint has them, in `target`."""
    if settings.weights == "full":
        raise SettingsError("--share: only adapters are interpolated, not all weights")
    if not 0 <= between.share <= 1:
        raise SettingsError(f"--share: expected 0 to 1, got {between.share}")
    if between.start is None:
        _scale(checkpoint, between.share, target)
    else:
        _mix(checkpoint, checkpoint_of(between.start, between.step), between, target)


def _average(settings: FitSettings, run: Path, checkpoint: Path, count: int, target: Path) -> None:
    """The mean of the adapters of so many checkpoints, as a checkpoint has them, in `target`."""
    if settings.weights == "full":
        raise SettingsError("--average: only adapters are averaged, not all weights")
    found = _checkpoints(run)
    steps = [step for step in sorted(found) if step <= _step(checkpoint)][-count:]
    if not 1 < count <= len(steps):
        raise SettingsError(
            f"--average: {count} checkpoints are asked for, of {len(steps)} that {run} keeps up to that one"
        )
    for config in checkpoint.glob(f"*/{CONFIG}"):
        adapter = config.parent.name
        factors = [factors_of(found[step] / adapter) for step in steps]
        shutil.copytree(config.parent, target / adapter)
        mean = {name: torch.stack([one[name] for one in factors]).mean(dim=0) for name in factors[0]}
        write_factors(target / adapter, mean)


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("checkpoint-"))


def _scale(checkpoint: Path, share: float, target: Path) -> None:
    for config in checkpoint.glob(f"*/{CONFIG}"):
        shutil.copytree(config.parent, target / config.parent.name)
        write_factors(target / config.parent.name, scaled(factors_of(config.parent), share))


def _mix(checkpoint: Path, start: Path, between: Interpolation, target: Path) -> None:
    for config in checkpoint.glob(f"*/{CONFIG}"):
        adapter = config.parent.name
        if not (start / adapter / WEIGHTS).is_file():
            raise SettingsError(f"--start: {between.start} has no adapter {adapter}")
        first, second = factors_of(start / adapter), factors_of(checkpoint / adapter)
        if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in second.items()}:
            raise SettingsError(f"--start: the adapters of {between.start} have other shapes")
        shutil.copytree(config.parent, target / adapter)
        write_factors(target / adapter, mixed(first, second, between.share))


def _weights(
    settings: FitSettings, checkpoint: Path, staging: Path, merge: bool, dtype: str | None, rank: int | None
) -> dict[str, Any]:
    """Put weights and tokenizer in place; the manifest's keys that say where."""
    if rank is not None and (merge or settings.weights == "full"):
        raise SettingsError("--rank: only adapters have one, and these weights have none")
    _, base = load_model(settings)
    roles = build_roles(settings, base)
    roles.load(checkpoint)
    if merge or settings.weights == "full":
        _merged(roles, settings, staging, DTYPES[dtype] if dtype else None)
        return {"base_model": "."}
    for adapter in roles.trained:
        shutil.copytree(checkpoint / adapter, staging / adapter)
        if rank is not None:
            truncate(staging / adapter, rank)
        if dtype is not None:
            cast(staging / adapter, DTYPES[dtype])
        name_base(staging / adapter, settings.model)
    parts: dict[str, Any] = {role: RoleWeights(adapter=adapter) for role, adapter in roles.adapter_of.items()}
    if not Path(settings.model).is_dir():
        return parts | {"base_model": settings.model}
    shutil.copytree(settings.model, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns(MANIFEST, CARD))
    return parts | {"base_model": "."}


@torch.no_grad()
def _merged(roles: Roles, settings: FitSettings, staging: Path, dtype: torch.dtype | None) -> None:
    """One plain model beside all else of its base, byte for byte; kept only if it says what the roles say."""
    if roles.adapter_of["leader"] != roles.adapter_of["follower"]:
        raise SettingsError(
            "--merge: Leader and Follower have adapters of their own; one set of weights cannot hold both"
        )
    expected = logits_of(roles.use("leader"))
    model = roles.model if roles.weights == "full" else roles.model.get_base_model()
    state = {key: value.detach().clone().contiguous() for key, value in roles.merged_state("leader").items()}
    plain = type(model)(model.config).to(dtype or model.dtype)
    plain.load_state_dict(state)
    write_model(plain, base_directory(settings.model), staging)
    if (gap := difference(load_written(staging, plain.dtype), expected)) is not None:
        raise SettingsError(f"--merge: merged weights do not say what the adapter says: logits differ by {gap:.1%}")


def _manifest(
    settings: FitSettings,
    checkpoint: Path,
    name: str,
    parts: dict[str, Any],
    evaluation: Path | None,
    interpolation: Interpolation | None,
    rank: int | None,
    average: int | None,
    ema: bool,
) -> Bundle:
    facts = settings.model_dump(
        mode="json", exclude={"output_dir", "model", "adapter", "data", "drafts", "preference", "validation"}
    )
    training = {
        "adapter": None if settings.adapter is None else Path(settings.adapter).name,
        "data": portable(settings.data),
        "preference": portable(settings.preference),
        "drafts": None if settings.drafts is None else portable(settings.drafts),
        "step": _step(checkpoint),
        "average": average,
        "ema": settings.ema_decay if ema else None,
        "share": None if interpolation is None else interpolation.share,
        "rank": rank,
        "settings": facts,
        "metrics": {k: v for k, v in last_metrics(checkpoint).items() if "/" in k and not k.startswith("seconds")},
    }
    return Bundle(
        name=name,
        follower_turn=settings.follower_turn,
        sampling=SamplingDefaults(temperature=settings.rollout.temperature, max_tokens=settings.rollout.max_new_tokens),
        trained=settings.algorithm,
        training=training,
        evaluation=_evaluation(evaluation),
        **parts,
    )


def _evaluation(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        found = read_json(path.read_bytes())
    except (OSError, ValueError) as exc:
        raise SettingsError(f"--evaluation: {path}: {exc}") from exc
    if not isinstance(found, dict):
        raise SettingsError(f"--evaluation: {path}: expected a JSON object")
    return found
