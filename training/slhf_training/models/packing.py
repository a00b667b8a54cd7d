"""Answers to one chat in one row: chat, answer, answer, ... The chat is read once.

An answer sees the chat and itself alone and takes its positions up where the chat ends, so that states and logits are
those of each answer on its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from slhf_training.types import Ids


@dataclass(frozen=True, slots=True)
class Reading:
    """A chat and answers to it as tokens; each answer has at least one."""

    prompt: Ids
    answers: tuple[Ids, ...]

    @property
    def length(self) -> int:
        return len(self.prompt) + sum(map(len, self.answers))


def tables(readings: Sequence[Reading], chats_end: int | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """(N, T) token ids, positions, and segments: 0 the chat, 1.. its answers, -1 padding.

    `chats_end`: the column where every chat ends, with padding before it; None: chats start in the first column.
    """
    starts = [0 if chats_end is None else chats_end - len(reading.prompt) for reading in readings]
    shape = len(readings), max(start + reading.length for start, reading in zip(starts, readings, strict=True))
    ids, positions, segments = torch.zeros(shape).long(), torch.zeros(shape).long(), torch.full(shape, -1)
    for row, (start, reading) in enumerate(zip(starts, readings, strict=True)):
        for segment, part in enumerate((reading.prompt, *reading.answers)):
            place = slice(start, start + len(part))
            first = 0 if segment == 0 else len(reading.prompt)
            ids[row, place] = torch.tensor(part, dtype=torch.long)
            positions[row, place] = torch.arange(first, first + len(part))
            segments[row, place] = segment
            start += len(part)
    return ids, positions, segments


def attention_bias(segments: Tensor, dtype: torch.dtype) -> Tensor:
    """(N, 1, T, T), added to attention scores: a token sees what comes before it in the chat and in its own answer."""
    length = segments.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=segments.device).tril()
    seen = causal & ((segments[:, None] == 0) | (segments[:, None] == segments[..., None]))
    # Finite also in bfloat16, which autocast makes of it: a row of -inf has no softmax.
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.bfloat16).min)
    blocked = torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, lowest)
    return blocked[:, None]


def reads_packed(model: Any) -> bool:
    """Whether its attention takes such a bias as it is: others would let an answer see its neighbours."""
    return model.config._attn_implementation in ("sdpa", "eager") and sees_all(model)


def sees_all(model: Any) -> bool:
    """Whether every layer attends to every token before: none slides, is chunked or recurrent."""
    return set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
