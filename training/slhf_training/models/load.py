"""Loads causal language models by the names that configurations give them."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer

from slhf_training.errors import SettingsError
from slhf_training.models.bundles import located
from slhf_training.models.sharding import without_launcher


def load_causal(name: str, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """Return the tokenizer and the model of a path, hub id or builtin. Raises SettingsError naming the key `model`."""
    source = located(name, "model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        with without_launcher():
            model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as exc:
        raise SettingsError(f"model: {name!r} cannot be loaded: {exc}") from exc
    return tokenizer, model


def base_directory(name: str) -> Path:
    """Return the directory of a model's files other than its weights; it may be one of the hub's cache.

    Raises SettingsError naming the key `model`.
    """
    source = located(name, "model")
    if Path(source).is_dir():
        return Path(source)
    try:
        return Path(snapshot_download(source, allow_patterns=["*.json", "*.jinja", "*.model", "*.txt", "*.py"]))
    except (HfHubHTTPError, OSError) as exc:
        raise SettingsError(f"model: the files of {name!r} cannot be had: {exc}") from exc


def load_written(directory: Path, dtype: torch.dtype) -> Any:
    """Read a model that was just written, as others will read it."""
    return AutoModelForCausalLM.from_pretrained(directory, dtype=dtype).eval()


def end_ids_of(model: Any) -> list[int]:
    """Return the ids of the tokens that end an answer, by the model's own generation settings."""
    found = model.generation_config.eos_token_id
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]


def bf16_is_fast() -> bool:
    """Return whether bfloat16 is not emulated. On one core with AVX2 it made 5 GFLOP/s, against 33 in float32."""
    return torch.cuda.is_available() or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "AVX2")


def fast_dtype() -> str:
    """Return the dtype to load weights in: the one that they have where bfloat16 is fast, else float32."""
    return "auto" if bf16_is_fast() else "float32"
