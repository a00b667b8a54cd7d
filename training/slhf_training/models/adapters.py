"""Arithmetic on adapters as they lie on disk, in peft's format: pure functions on a directory or on its tensors.

An adapter adds the product B A of its factors A (rank, inputs) and B (outputs, rank), so a share of one factor goes
that share of the way from the base model. Between two adapters of one shape the factors themselves are mixed (LITI in
WARP, arXiv 2406.16768).
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from slhf_training.errors import SettingsError

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
Factors = Mapping[str, Tensor]
"""The factors by peft's names, which hold `lora_A` or `lora_B`."""


def factors_of(adapter: Path) -> dict[str, Tensor]:
    return load_file(adapter / WEIGHTS)


def write_factors(adapter: Path, factors: Factors) -> None:
    save_file(dict(factors), adapter / WEIGHTS, metadata={"format": "pt"})


def scaled(factors: Factors, share: float) -> dict[str, Tensor]:
    """Return factors that go `share` of the way from the base model."""
    return {key: factor * share if "lora_B" in key else factor for key, factor in factors.items()}


def mixed(start: Factors, end: Factors, share: float) -> dict[str, Tensor]:
    """Return factors that go `share` of the way from one adapter to another of its shape, in the first one's dtype."""
    return {key: torch.lerp(one.float(), end[key].float().cpu(), share).to(one.dtype) for key, one in start.items()}


def truncate(adapter: Path, rank: int) -> None:
    """Cut an adapter to a lower rank: each product becomes the nearest one of that rank (Eckart and Young, 1936).

    The nearest one keeps the largest singular values. Raises SettingsError for a rank above the adapter's own.
    """
    said = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    if not 0 < rank <= said["r"]:
        raise SettingsError(f"--rank: expected 1 to {said['r']}, the adapters' own, got {rank}")
    said |= {"lora_alpha": said["lora_alpha"] * rank / said["r"], "r": rank}  # alpha / r stays
    _write_config(adapter, said)
    factors = factors_of(adapter)
    for key in [key for key in factors if "lora_A" in key]:
        other = key.replace("lora_A", "lora_B")
        factors[key], factors[other] = _nearest(factors[key], factors[other], rank)
    write_factors(adapter, factors)


def cast(adapter: Path, dtype: torch.dtype) -> None:
    write_factors(adapter, {name: tensor.to(dtype) for name, tensor in factors_of(adapter).items()})


def name_base(adapter: Path, model: str) -> None:
    """Name the base in the adapter's configuration, but not by a path, which means nothing on other machines."""
    said = json.loads((adapter / CONFIG).read_text(encoding="utf-8"))
    said["base_model_name_or_path"] = "." if Path(model).is_dir() else model
    _write_config(adapter, said)


def _write_config(adapter: Path, said: Mapping[str, object]) -> None:
    (adapter / CONFIG).write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def _nearest(a: Tensor, b: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Return factors (rank, inputs) and (outputs, rank) for `a` (r, inputs) and `b` (outputs, r).

    The large product (outputs, inputs) is never formed.
    """
    (left, inner), (right, outer) = torch.linalg.qr(b.double()), torch.linalg.qr(a.double().T)
    u, s, v = torch.linalg.svd(inner @ outer.T)
    half = s[:rank].sqrt()
    found = (half[:, None] * v[:rank] @ right.T, left @ u[:, :rank] * half)
    return found[0].to(a.dtype).contiguous(), found[1].to(b.dtype).contiguous()
