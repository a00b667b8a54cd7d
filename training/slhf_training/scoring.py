"""Log-probs of given answers, by token ids; padding is known by lengths and never by the pad id, which may be EOS."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from slhf_training.packing import Reading, attention_bias, reads_packed, tables
from slhf_training.rollout import Ids

LONGEST_ROW = 4096
"""Tokens; attention is quadratic, so in longer rows answers would pay more for each other than the prompt costs."""


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
    """(B, T), float32 (or wider): log-prob of each answer's tokens at the sampling temperature; anything in padding.

    A prompt that all answers share is read once.
    """
    answer_ids = right_padded(answers, device, torch.long)
    row = Reading(prompts[0], tuple(answers))
    if len(answers) > 1 and len(set(prompts)) == 1 and row.length <= LONGEST_ROW and reads_packed(model):
        logits = _logits_of_one_prompt(model, row, device)
    else:
        logits = _logits(model, prompts, answers, answer_ids)
    if logits.dtype in (torch.bfloat16, torch.float16):
        logits = logits.float()
    scaled = logits / temperature
    chosen = scaled.gather(2, answer_ids[:, :, None])[:, :, 0]
    return torch.as_tensor(chosen - scaled.logsumexp(dim=-1))


def _logits(model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], answer_ids: Tensor) -> Tensor:
    """(B, T, V): before each token of the answers."""
    prompt_ids, prompt_mask = left_padded(prompts, answer_ids.device)
    answer_mask = right_padded([[1] * len(a) for a in answers], answer_ids.device, torch.long)
    mask = torch.cat([prompt_mask, answer_mask], dim=1)
    logits = model(
        input_ids=torch.cat([prompt_ids, answer_ids], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=answer_ids.shape[1] + 1,
    ).logits
    return torch.as_tensor(logits[:, :-1])


def _logits_of_one_prompt(model: Any, reading: Reading, device: torch.device) -> Tensor:
    """(B, T, V): before each token of the answers, zeros behind; the prompt's last token comes before every answer."""
    ids, positions, segments = (table.to(device) for table in tables([reading]))  # (1, L) each
    places: list[int] = []
    start = len(reading.prompt)
    for answer in reading.answers:
        places += [len(reading.prompt) - 1, *range(start, start + len(answer) - 1)]
        start += len(answer)
    logits = model(
        input_ids=ids,
        attention_mask=attention_bias(segments, model.dtype),
        position_ids=positions,
        use_cache=False,
        logits_to_keep=torch.tensor(places, device=device),
    ).logits[0]
    return pad_sequence(logits.split([len(answer) for answer in reading.answers]), batch_first=True)
