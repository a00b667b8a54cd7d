"""From a run's checkpoint to a bundle that the server loads unchanged.

A base model that lies in a directory is copied into the bundle; one from the hub or built in is named. Merging leaves
no adapters: it needs roles that share their weights.

`Interpolation` goes part of the way to a run: from the base model, by the adapters' product, or from another run that
it started from, by the adapters' factors. What was learnt last at the price of what was known is often had for less of
it (LITI in WARP, arXiv 2406.16768). A lower rank makes adapters smaller: each becomes its nearest of that rank.
"""

import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from slhf import Bundle, RoleWeights, SamplingDefaults, write_bundle
from slhf.json_text import read_json
from slhf.weights import difference, logits_of, write_model
from slhf_training.config import portable
from slhf_training.errors import SettingsError
from slhf_training.fit.build import build_roles, load_model
from slhf_training.fit.run import checkpoint_of, last_metrics, settings_of
from slhf_training.fit.settings import FitSettings
from slhf_training.models.load import base_directory, load_written
from slhf_training.models.roles import DTYPES, Roles


@dataclass(frozen=True, slots=True)
class Interpolation:
    share: float
    """Of the way: 0 is the start, 1 the run."""
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
) -> Bundle:
    """Write the bundle; `step` chooses the checkpoint (None: the last), `dtype` and `rank` are the adapters' (None: as
    they were trained). `target` appears when it is whole.

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
        weights = checkpoint
        if interpolation is not None:
            weights = Path(temporary) / "between"
            _interpolate(settings, checkpoint, interpolation, weights)
        parts = _weights(settings, weights, staging, merge, dtype, rank)
        bundle = write_bundle(staging, _manifest(settings, checkpoint, name, parts, evaluation, interpolation, rank))
        staging.rename(target)
    return bundle


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


def _scale(checkpoint: Path, share: float, target: Path) -> None:
    """An adapter adds the product of its factors, so a share of one of them is that share of the way from the base."""
    for config in checkpoint.glob("*/adapter_config.json"):
        shutil.copytree(config.parent, target / config.parent.name)
        file = target / config.parent.name / "adapter_model.safetensors"
        factors = load_file(file)
        scaled = {key: factor * share if "lora_B" in key else factor for key, factor in factors.items()}
        save_file(scaled, file, metadata={"format": "pt"})


def _mix(checkpoint: Path, start: Path, between: Interpolation, target: Path) -> None:
    for config in checkpoint.glob("*/adapter_config.json"):
        adapter = config.parent.name
        file = f"{adapter}/adapter_model.safetensors"
        if not (start / file).is_file():
            raise SettingsError(f"--start: {between.start} has no adapter {adapter}")
        first, second = load_file(start / file), load_file(checkpoint / file)
        if {k: v.shape for k, v in first.items()} != {k: v.shape for k, v in second.items()}:
            raise SettingsError(f"--start: the adapters of {between.start} have other shapes")
        shutil.copytree(config.parent, target / adapter)
        mixed = {key: torch.lerp(first[key], second[key], between.share) for key in first}
        save_file(mixed, target / file, metadata={"format": "pt"})


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
        _merged(roles, settings, staging)
        return {"base_model": "."}
    for adapter in roles.trained:
        shutil.copytree(checkpoint / adapter, staging / adapter)
        if rank is not None:
            _truncate(staging / adapter, rank)
        if dtype is not None:
            cast(staging / adapter / "adapter_model.safetensors", DTYPES[dtype])
        name_base(staging / adapter / "adapter_config.json", settings.model)
    parts: dict[str, Any] = {role: RoleWeights(adapter=adapter) for role, adapter in roles.adapter_of.items()}
    if not Path(settings.model).is_dir():
        return parts | {"base_model": settings.model}
    shutil.copytree(settings.model, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns("slhf.json"))
    return parts | {"base_model": "."}


@torch.no_grad()
def _merged(roles: Roles, settings: FitSettings, staging: Path) -> None:
    """One plain model beside all else of its base, byte for byte; kept only if it says what the roles say."""
    if roles.adapter_of["leader"] != roles.adapter_of["follower"]:
        raise SettingsError(
            "--merge: Leader and Follower have adapters of their own; one set of weights cannot hold both"
        )
    expected = logits_of(roles.use("leader"))
    model = roles.model if roles.weights == "full" else roles.model.get_base_model()
    state = {key: value.detach().clone().contiguous() for key, value in roles.merged_state("leader").items()}
    plain = type(model)(model.config).to(model.dtype)
    plain.load_state_dict(state)
    write_model(plain, base_directory(settings.model), staging)
    if (gap := difference(load_written(staging, model.dtype), expected)) is not None:
        raise SettingsError(f"--merge: merged weights do not say what the adapter says: logits differ by {gap:.1%}")


def _truncate(adapter: Path, rank: int) -> None:
    """To the product's nearest of that rank (Eckart and Young, 1936): its largest singular values."""
    file, config = adapter / "adapter_model.safetensors", adapter / "adapter_config.json"
    said = json.loads(config.read_text(encoding="utf-8"))
    if not 0 < rank <= said["r"]:
        raise SettingsError(f"--rank: expected 1 to {said['r']}, the adapters' own, got {rank}")
    said |= {"lora_alpha": said["lora_alpha"] * rank / said["r"], "r": rank}  # what a product counts stays
    config.write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")
    factors = load_file(file)
    for key in [key for key in factors if "lora_A" in key]:
        other = key.replace("lora_A", "lora_B")
        factors[key], factors[other] = _nearest(factors[key], factors[other], rank)
    save_file(factors, file, metadata={"format": "pt"})


def _nearest(a: torch.Tensor, b: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Factors (rank, inputs) and (outputs, rank) for (r, inputs) and (outputs, r); never forms the large product."""
    (left, inner), (right, outer) = torch.linalg.qr(b.double()), torch.linalg.qr(a.double().T)
    u, s, v = torch.linalg.svd(inner @ outer.T)
    half = s[:rank].sqrt()
    found = (half[:, None] * v[:rank] @ right.T, left @ u[:, :rank] * half)
    return found[0].to(a.dtype).contiguous(), found[1].to(b.dtype).contiguous()


def cast(file: Path, dtype: torch.dtype) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def name_base(adapter_config: Path, model: str) -> None:
    """A path of the machine that trained it says nothing elsewhere."""
    config = json.loads(adapter_config.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "." if Path(model).is_dir() else model
    adapter_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _manifest(
    settings: FitSettings,
    checkpoint: Path,
    name: str,
    parts: dict[str, Any],
    evaluation: Path | None,
    interpolation: Interpolation | None,
    rank: int | None,
) -> Bundle:
    facts = settings.model_dump(mode="json", exclude={"output_dir", "model", "data", "drafts", "preference"})
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    training = {
        "data": portable(settings.data),
        "preference": portable(settings.preference),
        "drafts": None if settings.drafts is None else portable(settings.drafts),
        "step": step,
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
