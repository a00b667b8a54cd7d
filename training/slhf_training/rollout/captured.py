"""Decoding on a GPU: one CUDA graph of the whole step, sampling included, is replayed for each token.

A small model's step is hundreds of short kernels: the GPU waits for Python to launch them, and to ask after each token
which answers have ended. A graph is launched at once, and wants fixed shapes: keys and values lie in transformers'
`StaticCache`, of the most rows and tokens yet seen, and a batch that does not fit has a larger one captured. Batches of
less than half the rows have a graph of their own, and so has each adapter of a model: a graph goes on speaking as the
one that was on when it was captured.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import AttentionInterface, StaticCache

from slhf_training.models.packing import sees_all
from slhf_training.rollout.sampling import Voice, by_inverse_cdf, mixed_log_probs

TOKENS = 64
"""A cache is a multiple of so many long, so that few lengths need a graph of their own."""
LOOK_EVERY = 16
"""Steps between two looks at whether all answers have ended: each look waits for the GPU."""
_ATTENTION = "slhf_one_query"


class Captured:
    """For models whose step can be captured, which `can_capture` tells."""

    def __init__(self, temperature: float, most: int, end_ids: frozenset[int]) -> None:
        self._temperature, self._most, self._end_ids = temperature, most, sorted(end_ids)
        self._steps: dict[Hashable, _Step] = {}

    def decode(
        self,
        voices: Sequence[Voice],  # each with a cache of what was read, U rows
        first: Tensor,  # (U, V): log-probs of the first token
        mask: Tensor,  # (U, P): 0 where a prompt is padded, on the left
        copies: Tensor,  # (B,): the row of each answer's prompt
        noise: Tensor,  # (B, T)
    ) -> tuple[Tensor, Tensor]:
        """(B, N) ids and their log-probs; what stands after an end is to be cut off."""
        rows, length = len(copies), mask.shape[1]
        step = self._step(voices, rows, length + self._most, noise.dtype)
        step.begin(voices, first, mask, copies, noise)
        ends = torch.tensor(self._end_ids, device=noise.device)
        done = 1
        for done in range(2, noise.shape[1] + 1):
            step.replay()
            if done % LOOK_EVERY == 0 and torch.isin(step.written[:rows, :done], ends).any(dim=1).all():
                break
        return step.written[:rows, :done], step.log_probs[:rows, :done]

    def _step(self, voices: Sequence[Voice], rows: int, width: int, noise: torch.dtype) -> "_Step":
        key = (rows.bit_length(), *((id(voice.model), _adapters(voice.model)) for voice in voices))
        known = self._steps.get(key)
        if known is None or rows > known.rows or width > known.width:
            if known is not None:
                rows, width = max(rows, known.rows), max(width, known.width)
                del known, self._steps[key]  # its memory first
            self._steps[key] = _Step(voices, rows, -(-width // TOKENS) * TOKENS, self._most, self._temperature, noise)
        return self._steps[key]


class _Step:
    """From the last token of each row to the next one. All that changes lies in tensors whose addresses stay."""

    def __init__(
        self, voices: Sequence[Voice], rows: int, width: int, most: int, temperature: float, noise: torch.dtype
    ) -> None:
        self.rows, self.width = rows, width
        device = voices[0].model.device
        self._temperature = temperature
        self._voices = [Voice(voice.model, voice.share, _empty(voice, rows, width)) for voice in voices]
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._length = torch.zeros(1, dtype=torch.long, device=device)  # tokens in the caches
        self._at = torch.zeros(1, dtype=torch.long, device=device)  # tokens written
        dtype = voices[0].model.dtype
        self._bias = torch.full((rows, 1, 1, width), torch.finfo(dtype).min, dtype=dtype, device=device)
        self._noise = torch.zeros(rows, most, dtype=noise, device=device)
        self.written = torch.zeros(rows, most, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(rows, most, device=device)
        self.replay = self._replayable()

    def begin(self, voices: Sequence[Voice], first: Tensor, mask: Tensor, copies: Tensor, noise: Tensor) -> None:
        rows, length = len(copies), mask.shape[1]
        for ours, theirs in zip(self._voices, voices, strict=True):
            for layer, read in zip(ours.cache.layers, theirs.cache.layers, strict=True):
                layer.keys[:rows, :, :length] = read.keys[copies]
                layer.values[:rows, :, :length] = read.values[copies]
        self._return_to(length)
        self._bias.fill_(torch.finfo(self._bias.dtype).min)
        self._bias[:rows, 0, 0, :length].masked_fill_(mask[copies] == 1, 0.0)
        self._positions.zero_()
        self._positions[:rows, 0] = mask[copies].sum(dim=1)
        self._noise[:rows, : noise.shape[1]] = noise
        self._write(first[copies])

    def _run(self) -> None:
        self._bias.index_fill_(3, self._length, 0.0)
        with _one_query_each(self._voices):
            log_probs = mixed_log_probs(self._voices, self._ids, self._bias, self._positions, self._temperature)
        self._positions += 1
        self._length += 1
        self._write(log_probs)

    def _write(self, log_probs: Tensor) -> None:  # (B, V)
        rows = len(log_probs)
        ids = by_inverse_cdf(log_probs, self._noise[:rows].index_select(1, self._at)[:, 0])[:, None]
        self._ids[:rows] = ids
        self.written[:rows].index_copy_(1, self._at, ids)
        self.log_probs[:rows].index_copy_(1, self._at, log_probs.gather(1, ids))
        self._at += 1

    def _return_to(self, length: int) -> None:
        self._at.zero_()
        self._length.fill_(length)
        for voice in self._voices:
            for layer in voice.cache.layers:
                layer.cumulative_length.fill_(length)

    def _replayable(self) -> Callable[[], None]:
        """torch's recipe: a few runs on a side stream, then the capture, which runs nothing."""
        if self._ids.device.type != "cuda":
            return self._run
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                self._return_to(0)
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._run()
        return graph.replay


@contextmanager
def _one_query_each(voices: Sequence[Voice]) -> Iterator[None]:
    usual = [(voice.model, voice.model.config._attn_implementation) for voice in voices]
    for model, _ in usual:
        model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        for model, name in reversed(usual):
            model.set_attn_implementation(name)


def can_capture(model: Any) -> bool:
    """Whether its step runs without looking at values, its attention is the plain one, and no layer forgets."""
    slides = getattr(model.config, "sliding_window", None) is not None
    plain = model._can_compile_fullgraph and model._supports_sdpa
    return bool(plain) and sees_all(model) and not slides


def _adapters(model: Any) -> Hashable:
    """Which of its adapters speak, layer by layer; nothing for a model without any."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return tuple((layer.disable_adapters, *layer.active_adapters) for layer in layers)


def _empty(voice: Voice, rows: int, width: int) -> StaticCache:
    cache = StaticCache(voice.model.config, width)
    for layer, read in zip(cache.layers, voice.cache.layers, strict=True):
        shapes = [states.new_empty(rows, *states.shape[1:]) for states in (read.keys, read.values)]
        layer.lazy_initialization(*shapes)
    return cache


def _one_query(
    module: Any,
    query: Tensor,  # (R, H, 1, D)
    key: Tensor,  # (R, K, W, D)
    value: Tensor,  # (R, K, W, D)
    attention_mask: Tensor,  # (R, 1, 1, W)
    scaling: float | None = None,
    **unused: Any,
) -> tuple[Tensor, None]:
    """Heads that share keys become queries of one head; transformers would write H / K copies of the keys instead."""
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    found = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, size), None


AttentionInterface.register(_ATTENTION, _one_query)
