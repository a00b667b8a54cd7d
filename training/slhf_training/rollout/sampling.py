"""One token from the logits, the same in every loop that decodes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(slots=True)
class Voice:
    """A model that speaks with a share in the logits, and what it remembers."""

    model: Any
    share: float
    cache: Any = None


def mixed_log_probs(
    voices: Sequence[Voice], ids: Tensor, mask: Tensor, positions: Tensor, temperature: float
) -> Tensor:
    """(B, V), of the token after `ids`, at the temperature; several voices are mixed geometrically."""
    mixed: Tensor | None = None
    for voice in voices:
        out = voice.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=voice.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        voice.cache = out.past_key_values
        log_probs = torch.log_softmax(out.logits[:, -1].float() / temperature, dim=-1)
        mixed = voice.share * log_probs if mixed is None else mixed + voice.share * log_probs
    assert mixed is not None
    return mixed if len(voices) == 1 else torch.log_softmax(mixed, dim=-1)


def by_inverse_cdf(log_probs: Tensor, uniform: Tensor) -> Tensor:  # (B, V), (B,) -> (B,)
    """The first token whose cumulative probability exceeds the number: never one of probability zero."""
    cdf = log_probs.double().exp().cumsum(dim=-1)
    at = (uniform.double() * cdf[:, -1])[:, None]
    return torch.searchsorted(cdf, at, right=True)[:, 0].clamp(max=cdf.shape[1] - 1)
