"""Converts a GGUF file to a bundle: bfloat16 safetensors, tokenizer and chat template, and a manifest."""

import logging
import tempfile
from pathlib import Path
from typing import Any

from slhf import Bundle, write_bundle
from slhf_server.builtin import space
from slhf_server.builtin.weights import Weights

_logger = logging.getLogger(__name__)


def convert(file: Path, weights: Weights, target: Path) -> None:
    """Write the untrained bundle. `file` must have the right digest, because it is parsed here.

    Raises SettingsError where the disk has no room for it.
    """
    space.require(weights.converted_bytes, target, f"converting {weights.file}")
    seconds = 25 + weights.converted_bytes / 75_000_000
    _logger.info("start: converting %s once, into %s (about %.0f s on two cores)", weights.name, target.parent, seconds)
    with tempfile.TemporaryDirectory() as alone:  # transformers would also read what lies beside it
        (Path(alone) / weights.file).symlink_to(file.resolve())
        _write(Path(alone), weights, target)
    bundle = Bundle(
        name=weights.name,
        sampling=weights.sampling,
        trained="no",
        training={"source": weights.origin, "sha256": weights.sha256, "license": weights.license},
    )
    write_bundle(target, bundle)


def _write(directory: Path, weights: Weights, target: Path) -> None:
    """Write weights and tokenizer. The tensors are read once, so that they take no more memory than they need."""
    import torch  # imported here, because it is not needed once the model is converted
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
    from transformers.modeling_gguf_pytorch_utils import load_gguf_checkpoint

    config = AutoConfig.from_pretrained(directory, gguf_file=weights.file)
    config.tie_word_embeddings = True
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    path = str(directory / weights.file)
    read = load_gguf_checkpoint(path, return_tensors=True, model_to_load=model, torch_dtype=torch.bfloat16)
    _tie(read["tensors"])
    model.load_state_dict(read["tensors"], assign=True)  # strict: every tensor, and no other
    model.tie_weights()
    if weights.eos_token_ids:
        model.generation_config.eos_token_id = list(weights.eos_token_ids)
    model.save_pretrained(target)
    AutoTokenizer.from_pretrained(directory, gguf_file=weights.file).save_pretrained(target)


def _tie(tensors: dict[str, Any]) -> None:
    """Take one matrix for embedding and head, as each of these models was published.

    Qwen's files hold it twice, because its uses were rounded differently: to 6 bits as the head, to 4 as the embedding.
    The head's copy is the closer one and serves for both: the 1.5B model's mean negative log-likelihood is 1.7664 on
    gsm8k's questions (untied 1.7666) and 2.4113 on dolly's texts (2.4096), with 0.47 GB less.
    """
    head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
    tensors |= {"lm_head.weight": head, "model.embed_tokens.weight": head}
