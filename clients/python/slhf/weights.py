"""Writes a model that differs from its base in the weights alone.

transformers does not write back all of a base as it was: it refuses generation settings that it finds contradictory,
and tokenizers come back with other ids. So only weights are written, and all else is copied from the base's own files.

This module imports no torch: it takes a model of transformers.
"""

import json
import math
import shutil
from pathlib import Path
from typing import Any

from slhf.bundle import CARD, MANIFEST

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.index.json")
_OURS = (MANIFEST, CARD, "adapter_config.json")
_TEMPLATES = "additional_chat_templates"
_PROMPT = 16  # tokens of the prompt that is compared
# How much logits may differ, relative to their size: by float32's arithmetic, and by rounding merged weights to 16 bits
# (SmolLM2-135M in bfloat16 with its Follower: 0.06).
_EXACT, _ROUNDED = 1e-3, 0.2


def write_weights(model: Any, directory: Path) -> None:
    """Write the weights as safetensors, with the model's configuration and without its generation settings."""
    kept = model.generation_config
    if kept is not None:
        model.generation_config = type(kept)()
    try:
        model.save_pretrained(directory)
    finally:
        model.generation_config = kept
    (directory / "generation_config.json").unlink(missing_ok=True)


def write_model(model: Any, base: Path, directory: Path, *, untied: bool = False) -> None:
    """Write the model's weights beside everything else of its base, byte for byte.

    `config.json` alone may change: it says in which type the weights are and, if `untied`, that embedding and head are
    no longer one.
    """
    write_weights(model, directory)
    copy_all_but_weights(base, directory)
    file = directory / "config.json"
    config: dict[str, Any] = json.loads(file.read_bytes())
    changes: dict[str, Any] = {"tie_word_embeddings": False} if untied else {}
    dtype = str(model.dtype).removeprefix("torch.")
    if config.get("dtype", config.get("torch_dtype", dtype)) != dtype:
        changes["dtype"] = dtype
        config.pop("torch_dtype", None)
    if changes:
        file.write_text(json.dumps(config | changes, indent=2) + "\n", encoding="utf-8")


def copy_all_but_weights(base: Path, directory: Path) -> None:
    """Copy a model's files to a directory: all but weights, its card, a bundle's manifest and an adapter's settings."""
    for path in base.iterdir():
        if path.is_file() and path.name not in _OURS and not any(path.match(pattern) for pattern in _WEIGHTS):
            shutil.copyfile(path, directory / path.name)
    if (base / _TEMPLATES).is_dir():
        shutil.copytree(base / _TEMPLATES, directory / _TEMPLATES, copy_function=shutil.copyfile)


def logits_of(model: Any) -> Any:
    """Logits for a few tokens from all over the vocabulary: (positions, vocabulary), float32, each row centred."""
    parameter = next(model.parameters())
    size = model.get_input_embeddings().weight.shape[0]
    ids = parameter.new_tensor([[size * n // _PROMPT for n in range(_PROMPT)]]).long()
    found = model(input_ids=ids, use_cache=False).logits[0].detach().float().cpu()
    return found - found.mean(dim=-1, keepdim=True)


def difference(model: Any, expected: Any) -> float | None:
    """The relative difference between the model's logits and `logits_of` another; None where rounding explains it."""
    gap = float((logits_of(model) - expected).norm() / expected.norm())
    allowed = _EXACT if model.dtype.itemsize > 2 else _ROUNDED
    return None if math.isfinite(gap) and gap <= allowed else gap
