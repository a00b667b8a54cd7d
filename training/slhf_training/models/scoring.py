"""Log-probs of given answers, by token ids.

Answers to one chat stand in one row (chat, answer, answer, ...), so that the chat is read once. An answer sees the chat
and itself alone, and its positions begin where the chat ends, so its states and logits are those that it has on its
own. Padding is known by lengths and never by the pad id, which may be EOS.
"""

import contextlib
import itertools
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.checkpoint import checkpoint

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
    # Autocast makes bfloat16 of it, in which it has to be finite too: a row of -inf has no softmax.
    lowest = max(torch.finfo(dtype).min, torch.finfo(torch.bfloat16).min)
    blocked = torch.zeros_like(seen, dtype=dtype).masked_fill(~seen, lowest)
    return blocked[:, None]


def reads_packed(model: Any) -> bool:
    """Return whether the model's attention takes such a bias as it is: others let an answer see its neighbours."""
    return model.config._attn_implementation in ("sdpa", "eager") and sees_all(model)


def sees_all(model: Any) -> bool:
    """Return whether every layer attends to every token before: none slides, is chunked or is recurrent."""
    return set(getattr(model.config, "layer_types", None) or ["full_attention"]) == {"full_attention"}


LONGEST_ROW = 4096
"""Most tokens of a row. Attention is quadratic: in a longer one answers cost each other more than the prompt costs."""


def left_padded(prompts: Sequence[Ids], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, (B, P). Ids under the mask's zeros are never looked at."""
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(p)) + list(p) for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


def right_padded(rows: Sequence[Sequence[float]], device: torch.device, dtype: torch.dtype) -> Tensor:  # (B, T)
    width = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device, dtype=dtype)


def together(prompts: Sequence[Ids], lengths: Sequence[int], size: int, device: torch.device) -> list[list[int]]:
    """Return the answers' indices in batches of at most `size`; `lengths` are the answers' numbers of tokens.

    Answers to one prompt come together, so that it is read once, and prompts of like length, for less padding. On a CPU
    a prompt of several answers has a batch of its own, because padding costs as much there as other tokens.
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
    """(B, T), float32 (or wider): log-prob of each answer's tokens at the sampling temperature; anything in padding.

    Logits would take the most memory of a step: one for each token and word of the vocabulary. So they are made some at
    a time, and made again for the gradient.
    """
    ids = right_padded(answers, device, torch.long)
    if not _has_plain_head(model):
        return _chosen(nn.Identity(), answer_logits(model, prompts, answers, device), ids, temperature)
    with _without_head(model):
        states = _outputs(model, prompts, answers, device)
    is_token = right_padded([[1] * len(answer) for answer in answers], device, torch.bool)
    count = max(1, MOST_LOGITS.get(device.type, MOST_LOGITS["cuda"]) // model.get_output_embeddings().weight.shape[0])
    head = _cast_once(model.get_output_embeddings(), device)
    parts = zip(torch.split(states[is_token], count), torch.split(ids[is_token], count), strict=True)
    found = torch.cat([checkpoint(_chosen, head, *part, temperature, use_reentrant=False) for part in parts])
    return found.new_zeros(ids.shape).masked_scatter(is_token, found)


MOST_LOGITS = {"cpu": 1 << 22, "cuda": 1 << 24}
"""Of one part: 16 and 64 MiB in float32, of which the gradient has some at once. A GPU is slow on few tokens."""


def _cast_once(head: Any, device: torch.device) -> Callable[[Tensor], Tensor]:
    """Return the head with its weights as autocast would cast them for every part, where they are frozen.

    Autocast keeps a cast of weights that learn alone.
    """
    if type(head) is not nn.Linear or head.weight.requires_grad or not torch.is_autocast_enabled(device.type):
        return head  # type: ignore[no-any-return]
    dtype = torch.get_autocast_dtype(device.type)
    bias = None if head.bias is None else head.bias.to(dtype)
    return partial(nn.functional.linear, weight=head.weight.to(dtype), bias=bias)


def _chosen(head: Callable[[Tensor], Tensor], states: Tensor, ids: Tensor, temperature: float) -> Tensor:
    """Log-probs of these ids, which have the states' shape but for its last dimension."""
    scaled = _widened(head(states)) / temperature
    return scaled.gather(-1, ids[..., None])[..., 0] - scaled.logsumexp(dim=-1)


def _widened(logits: Tensor) -> Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits


_PLAIN_HEADS: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


@torch.no_grad()
def _has_plain_head(model: Any) -> bool:
    """Whether the model's logits are what its head makes of the last states: some models scale or cap them. Tried once.

    A sharded model's head has no weights outside of the model's own pass.
    """
    head = model.get_output_embeddings()
    if isinstance(head.weight, DTensor):
        return False
    if head not in _PLAIN_HEADS:
        inputs = {"input_ids": torch.tensor([[0, 1]], device=head.weight.device), "use_cache": False}
        logits = model(**inputs).logits
        with _without_head(model):
            states = model(**inputs).logits
        _PLAIN_HEADS[head] = torch.allclose(head(states), logits, rtol=1e-4, atol=1e-4)
    return _PLAIN_HEADS[head]


@contextlib.contextmanager
def _without_head(model: Any) -> Iterator[None]:
    """Within this, the model's "logits" are the states that its head would have read."""
    head = model.get_output_embeddings()
    model.set_output_embeddings(nn.Identity())
    try:
        yield
    finally:
        model.set_output_embeddings(head)


def answer_logits(model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], device: torch.device) -> Tensor:
    """(B, T, V), float32 or wider: the logits before each token of the answers; any value in padding.

    A prompt that several answers share is read once.
    """
    return _widened(_outputs(model, prompts, answers, device))


def _outputs(model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], device: torch.device) -> Tensor:
    """(B, T, V), or (B, T, H) without its head: before each token of the answers; anything in padding."""
    rows = _rows(prompts, answers)
    if len(rows) < len(answers) and reads_packed(model):
        return _outputs_of_rows(model, rows, len(answers), device)
    return _outputs_of_each(model, prompts, answers, right_padded(answers, device, torch.long))


def _rows(prompts: Sequence[Ids], answers: Sequence[Ids]) -> list[tuple[Reading, list[int]]]:
    """Return each prompt with its answers, and which of `answers` these are; a row that would be too long is split."""
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


def _outputs_of_each(model: Any, prompts: Sequence[Ids], answers: Sequence[Ids], answer_ids: Tensor) -> Tensor:
    """As `_outputs`, with a row for each answer."""
    prompt_ids, prompt_mask = left_padded(prompts, answer_ids.device)
    answer_mask = right_padded([[1] * len(a) for a in answers], answer_ids.device, torch.long)
    mask = torch.cat([prompt_mask, answer_mask], dim=1)
    found = model(
        input_ids=torch.cat([prompt_ids, answer_ids], dim=1),
        attention_mask=mask,
        position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0),
        use_cache=False,
        logits_to_keep=answer_ids.shape[1] + 1,
    ).logits
    return torch.as_tensor(found[:, :-1])


def _outputs_of_rows(model: Any, rows: Sequence[tuple[Reading, list[int]]], count: int, device: torch.device) -> Tensor:
    """As `_outputs`, with a row for several answers, and zeros behind each.

    The last token of a prompt comes before the first token of each of its answers.
    """
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
    is_one = len(rows) == 1  # then the model keeps the chosen columns alone, and nothing is copied
    found = model(
        input_ids=ids,
        attention_mask=attention_bias(segments, model.dtype),
        position_ids=positions,
        use_cache=False,
        logits_to_keep=chosen + chats_end - 1 if is_one else width,
    ).logits
    flat = found[0] if is_one else found.flatten(0, 1).index_select(0, chosen)
    return pad_sequence(flat.split([len(of_answer) for of_answer in places]), batch_first=True)
