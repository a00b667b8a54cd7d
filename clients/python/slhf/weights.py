"""Writing a model that is its base but for the weights.

What transformers does not know of a base it does not write back as it was: it refuses generation settings that it finds
contradictory, and tokenizers come back with other ids. So weights are written, and all else is the base's own files.

This module imports no torch: it takes a model of transformers.
"""

import json
import shutil
from pathlib import Path
from typing import Any

from slhf.bundle import MANIFEST

_WEIGHTS = ("*.safetensors", "*.bin", "*.pt", "*.pth", "*.gguf", "*.h5", "*.msgpack", "*.onnx", "*.ot", "*.index.json")
_OURS = (MANIFEST, "adapter_config.json")
_TEMPLATES = "additional_chat_templates"


def write_weights(model: Any, directory: Path) -> None:
    """The model's weights as safetensors, with its configuration; no generation settings, whatever they are."""
    kept = model.generation_config
    if kept is not None:
        model.generation_config = type(kept)()
    try:
        model.save_pretrained(directory)
    finally:
        model.generation_config = kept
    (directory / "generation_config.json").unlink(missing_ok=True)


def write_model(model: Any, base: Path, directory: Path, *, untied: bool = False) -> None:
    """The model's weights beside everything else of its base, byte for byte.

    `untied`: embedding and head are no longer the same, as the base's configuration says they are.
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
    for path in base.iterdir():
        if path.is_file() and path.name not in _OURS and not any(path.match(pattern) for pattern in _WEIGHTS):
            shutil.copyfile(path, directory / path.name)
    if (base / _TEMPLATES).is_dir():
        shutil.copytree(base / _TEMPLATES, directory / _TEMPLATES, copy_function=shutil.copyfile)
