"""Log-probs of given answers, by token ids; padding is known by lengths and never by the pad id, which may be EOS."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from slhf_training.rollout import Ids


def left_padded(prompts: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (B, P). What stands under the mask's zeros is never looked at."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


def right_padded(rows: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype) -> Tensor:  # (B, T)
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device, dtype=dtype)


def answer_log_probs(
    model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], temperature: float, device: torch.device
) -> Tensor:
    """(B, T), float32 (or wider): log-prob of each answer's tokens at the sampling temperature; anything in padding."""
    prompt_ids, prompt_mask = left_padded(prompts, device)
    answer_ids = right_padded(answers, device, torch.long)
    answer_mask = right_padded([[1] * len(a) for a in answers], device, torch.long)
    mask = torch.cat([prompt_mask, answer_mask], dim=1)
    logits = model(
        input_ids=torch.cat([prompt_ids, answer_ids], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=answer_ids.shape[1] + 1,
    ).logits[:, :-1]  # (B, T, V): the logits before each token of the answer
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    scaled = logits / temperature
    chosen = scaled.gather(2, answer_ids[:, :, None])[:, :, 0]
    return torch.as_tensor(chosen - scaled.logsumexp(dim=-1))
