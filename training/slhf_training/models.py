"""Causal language models by the names that configurations give them."""

from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from slhf_training.bundles import located
from slhf_training.errors import SettingsError


def load_causal(name: str, dtype: torch.dtype | str) -> tuple[Any, Any]:
    """The tokenizer and the model of a path, hub id or builtin. Raises SettingsError naming the key `model`."""
    source = located(name, "model")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = AutoModelForCausalLM.from_pretrained(source, dtype=dtype)
    except (OSError, ValueError) as exc:
        raise SettingsError(f"model: {name!r} cannot be loaded: {exc}") from exc
    return tokenizer, model
