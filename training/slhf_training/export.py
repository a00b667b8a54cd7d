"""From a run's checkpoint to a bundle that the server loads unchanged.

A base model that lies in a directory is copied into the bundle; one from the hub or built in is named. Merging leaves
no adapters: it needs roles that share their weights.
"""

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from slhf import Bundle, RoleWeights, SamplingDefaults, write_bundle
from slhf_training.config_file import portable
from slhf_training.errors import SettingsError
from slhf_training.fitting import build_roles, load_model
from slhf_training.roles import DTYPES, Roles
from slhf_training.run import checkpoint_of, last_metrics, settings_of
from slhf_training.settings import FitSettings


def export(
    run: Path,
    target: Path,
    name: str,
    *,
    step: int | None = None,
    merge: bool = False,
    dtype: str | None = None,
    evaluation: Path | None = None,
) -> Bundle:
    """Write the bundle; `step` chooses the checkpoint (None: the last), `dtype` is the adapters' (None: as they were
    trained). `target` appears when it is whole.

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
        parts = _weights(settings, checkpoint, staging, merge, dtype)
        bundle = write_bundle(staging, _manifest(settings, checkpoint, name, parts, evaluation))
        staging.rename(target)
    return bundle


def _weights(settings: FitSettings, checkpoint: Path, staging: Path, merge: bool, dtype: str | None) -> dict[str, Any]:
    """Put weights and tokenizer in place; the manifest's keys that say where."""
    tokenizer, base = load_model(settings)
    roles = build_roles(settings, base)
    roles.load(checkpoint)
    if merge or settings.weights == "full":
        _merged(roles, tokenizer, staging)
        return {"base_model": "."}
    for adapter in roles.trained:
        shutil.copytree(checkpoint / adapter, staging / adapter)
        if dtype is not None:
            _cast(staging / adapter / "adapter_model.safetensors", DTYPES[dtype])
        _name_base(staging / adapter / "adapter_config.json", settings.model)
    parts: dict[str, Any] = {role: RoleWeights(adapter=adapter) for role, adapter in roles.adapter_of.items()}
    if not Path(settings.model).is_dir():
        return parts | {"base_model": settings.model}
    shutil.copytree(settings.model, staging, dirs_exist_ok=True, ignore=shutil.ignore_patterns("slhf.json"))
    return parts | {"base_model": "."}


def _merged(roles: Roles, tokenizer: Any, staging: Path) -> None:
    if roles.adapter_of["leader"] != roles.adapter_of["follower"]:
        raise SettingsError(
            "--merge: Leader and Follower have adapters of their own; one set of weights cannot hold both"
        )
    model = roles.model if roles.weights == "full" else roles.model.get_base_model()
    config = model.config
    state = {key: value.detach().clone().contiguous() for key, value in roles.merged_state("leader").items()}
    plain = type(model)(config).to(model.dtype)
    plain.load_state_dict(state)
    plain.generation_config = model.generation_config
    plain.save_pretrained(staging)
    tokenizer.save_pretrained(staging)


def _cast(file: Path, dtype: torch.dtype) -> None:
    save_file({name: tensor.to(dtype) for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})


def _name_base(adapter_config: Path, model: str) -> None:
    """A path of the machine that trained it says nothing elsewhere."""
    config = json.loads(adapter_config.read_text(encoding="utf-8"))
    config["base_model_name_or_path"] = "." if Path(model).is_dir() else model
    adapter_config.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _manifest(
    settings: FitSettings, checkpoint: Path, name: str, parts: dict[str, Any], evaluation: Path | None
) -> Bundle:
    facts = settings.model_dump(mode="json", exclude={"output_dir", "model", "data", "drafts", "preference"})
    step = int(checkpoint.name.removeprefix("checkpoint-"))
    training = {
        "data": portable(settings.data),
        "preference": portable(settings.preference),
        "drafts": None if settings.drafts is None else portable(settings.drafts),
        "step": step,
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
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as exc:
        raise SettingsError(f"--evaluation: {path}: {exc}") from exc
    if not isinstance(found, dict):
        raise SettingsError(f"--evaluation: {path}: expected a JSON object")
    return found
