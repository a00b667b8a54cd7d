"""Log-probs of given answers, by token ids; padding is known by lengths and never by the pad id, which may be EOS.

Answers to one chat in one row: chat, answer, answer, ... The chat is read once.

An answer sees the chat and itself alone and takes its positions up where the chat ends, so that states and logits are
those of each answer on its own.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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


LONGEST_ROW = 4096
"""Tokens; attention is quadratic, so in longer rows answers would pay more for each other than the prompt costs."""


def left_padded(prompts: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, (B, P). Ids under the mask's zeros are never looked at."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


def right_padded(rows: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype) -> Tensor:  # (B, T)
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device, dtype=dtype)


def together(prompts: Sequence[Ids], lengths: Sequence[int], size: int, device: torch.device) -> list[list[int]]:
    """Indices in batches of at most `size`: answers to one prompt together, so that it is read once, and prompts of
    like length, for less padding. `lengths`: of the answers.

    On a CPU a prompt of several answers has a batch of its own: there a pass costs what its tokens and padding cost.
    """
    by_prompt: dict[Ids, list[int]] = defaultdict(list)
    for index, prompt in enumerate(prompts):
        by_prompt[prompt].append(index)
    groups = [
        of_prompt[start : start + size] for of_prompt in by_prompt.values() for start in range(0, len(of_prompt), size)
    ]
    groups.sort(key=lambda group: (len(prompts[group[0]]), sum(lengths[i] for i in group)))
    batches: list[list[int]] = []
    if device.type == "cpu":
        batches = [group for group in groups if len(group) > 1]
        groups = [group for group in groups if len(group) == 1]
    filling: list[list[int]] = []
    for group in groups:
        if not filling or len(filling[-1]) + len(group) > size:
            filling.append([])
        filling[-1] += group
    return batches + filling


def answer_log_probs(
    model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], temperature: float, device: torch.device
) -> Tensor:
    """(B, T), float32 (or wider): log-prob of each answer's tokens at the sampling temperature; anything in padding."""
    scaled = answer_logits(model, prompts, answers, device) / temperature
    chosen = scaled.gather(2, right_padded(answers, device, torch.long)[:, :, None])[:, :, 0]
    return torch.as_tensor(chosen - scaled.logsumexp(dim=-1))


def answer_logits(model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], device: torch.device) -> Tensor:
    """(B, T, V), float32 (or wider): before each token of the answers; anything in padding.

    A prompt that several answers share is read once.
    """
    rows = _rows(prompts, answers)
    if len(rows) < len(answers) and reads_packed(model):
        logits = _logits_of_rows(model, rows, len(answers), device)
    else:
        logits = _logits(model, prompts, answers, right_padded(answers, device, torch.long))
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


def _rows(prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[tuple[Reading, list[int]]]:
    """Each prompt with its answers, and which ones of `answers` they are; split where a row would be too long."""
    rows: list[tuple[Reading, list[int]]] = []
    last: dict[Ids, int] = {}
    for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
        row = last.get(prompt)
        if row is None or rows[row][0].length + len(answer) > LONGEST_ROW:
            last[prompt] = len(rows)
            rows.append((Reading(prompt, (answer,)), [index]))
        else:
            reading, indices = rows[row]
            rows[row] = Reading(prompt, (*reading.answers, answer)), [*indices, index]
    return rows


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


def _logits_of_rows(model: Any, rows: Sequence[tuple[Reading, list[int]]], count: int, device: torch.device) -> Tensor:
    """(B, T, V): before each token of the answers, zeros behind; a prompt's last token comes before all its answers."""
    readings = [reading for reading, _ in rows]
    chats_end = max(len(reading.prompt) for reading in readings)
    ids, positions, segments = (table.to(device) for table in tables(readings, chats_end))  # (N, L) each
    width = ids.shape[1] - chats_end + 1  # from the prompts' last token on
    places: list[list[int]] = [[]] * count
    for row, (reading, indices) in enumerate(rows):
        at = row * width + 1
        for index, answer in zip(indices, reading.answers, strict=True):
            places[index] = [row * width, *range(at, at + len(answer) - 1)]
            at += len(answer)
    chosen = torch.tensor(list(itertools.chain(*places)), device=device)
    is_one = len(rows) == 1  # then the model's head can choose, and nothing is copied
    logits = model(
        input_ids=ids,
        attention_mask=attention_bias(segments, model.dtype),
        position_ids=positions,
        use_cache=False,
        logits_to_keep=chosen + chats_end - 1 if is_one else width,
    ).logits
    flat = logits[0] if is_one else logits.flatten(0, 1).index_select(0, chosen)
    return pad_sequence(flat.split([len(of_answer) for of_answer in places]), batch_first=True)
