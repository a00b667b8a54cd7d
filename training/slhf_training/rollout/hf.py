"""Samples with transformers by a loop of our own, because it must keep three promises that `generate` does not.

Each answer has its own random numbers; the distribution is the policy's at one temperature and nothing else; and
finished answers leave the batch. Sampling is by inverse CDF (one uniform number a token), 20 times cheaper on a
CPU than `torch.multinomial`.

On a GPU one CUDA graph of the whole step, sampling included, is replayed for each token. A small model's step is
hundreds of short kernels: without a graph the GPU waits for Python to launch them, and to ask after each token which
answers have ended. A graph is launched at once but wants fixed shapes, so keys and values lie in transformers'
`StaticCache`, of the most rows and tokens yet seen, and for a batch that does not fit a larger graph is captured.
Batches of less than half the rows have a graph of their own, and so has each adapter of a model, because a graph goes
on speaking as the adapter that was on when it was captured.
"""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor
from transformers import AttentionInterface, StaticCache

from slhf_training.models.scoring import left_padded, sees_all
from slhf_training.rollout import RolloutSettings
from slhf_training.types import Ids, Player, Role, Sample


@dataclass(slots=True)
class Policy:
    """A model, its share in the mixed log-probs, and its cache of keys and values."""

    model: Any
    share: float
    cache: Any = None


def mixed_log_probs(
    policies: Sequence[Policy], ids: Tensor, mask: Tensor, positions: Tensor, temperature: float
) -> Tensor:
    """(B, V): log-probs of the token after `ids` at the temperature; several policies are mixed geometrically."""
    mixed: Tensor | None = None
    for policy in policies:
        out = policy.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=policy.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        policy.cache = out.past_key_values
        log_probs = torch.log_softmax(out.logits[:, -1].float() / temperature, dim=-1)
        mixed = policy.share * log_probs if mixed is None else mixed + policy.share * log_probs
    assert mixed is not None
    return mixed if len(policies) == 1 else torch.log_softmax(mixed, dim=-1)


def by_inverse_cdf(log_probs: Tensor, uniform: Tensor) -> Tensor:  # (B, V), (B,) -> (B,)
    """Return the first token whose cumulative probability exceeds the number, which never has probability zero."""
    cdf = log_probs.double().exp().cumsum(dim=-1)
    at = (uniform.double() * cdf[:, -1])[:, None]
    return torch.searchsorted(cdf, at, right=True)[:, 0].clamp(max=cdf.shape[1] - 1)


TOKENS = 64
"""The length of a cache is a multiple of this, so that few lengths need a graph of their own."""
LOOK_EVERY = 16
"""Steps between two looks at whether all answers have ended: each look waits for the GPU."""
_ATTENTION = "slhf_one_query"


class Captured:
    """Decodes with models whose step can be captured, which `can_capture` tells."""

    def __init__(self, temperature: float, most: int, end_ids: frozenset[int]) -> None:
        self._temperature, self._most, self._end_ids = temperature, most, sorted(end_ids)
        self._steps: dict[Hashable, _Step] = {}

    def decode(
        self,
        policies: Sequence[Policy],  # each with a cache of the prompts, U rows
        first: Tensor,  # (U, V): log-probs of the first token
        mask: Tensor,  # (U, P): 0 where a prompt is padded, on the left
        copies: Tensor,  # (B,): the row of each answer's prompt
        noise: Tensor,  # (B, T)
    ) -> tuple[Tensor, Tensor]:
        """Return (B, N) ids and their log-probs; the caller cuts off what follows an end."""
        rows, length = len(copies), mask.shape[1]
        step = self._step(policies, rows, length + self._most, noise.dtype)
        step.begin(policies, first, mask, copies, noise)
        ends = torch.tensor(self._end_ids, device=noise.device)
        done = 1
        for done in range(2, noise.shape[1] + 1):
            step.replay()
            if done % LOOK_EVERY == 0 and torch.isin(step.written[:rows, :done], ends).any(dim=1).all():
                break
        return step.written[:rows, :done], step.log_probs[:rows, :done]

    def _step(self, policies: Sequence[Policy], rows: int, width: int, noise: torch.dtype) -> "_Step":
        key = (rows.bit_length(), *((id(policy.model), _adapters(policy.model)) for policy in policies))
        known = self._steps.get(key)
        if known is None or rows > known.rows or width > known.width:
            if known is not None:
                rows, width = max(rows, known.rows), max(width, known.width)
                del known, self._steps[key]  # frees its memory before the larger one takes more
            self._steps[key] = _Step(policies, rows, -(-width // TOKENS) * TOKENS, self._most, self._temperature, noise)
        return self._steps[key]


class _Step:
    """A step from the last token of each row to the next one. All that changes lies in tensors whose addresses stay."""

    def __init__(
        self, policies: Sequence[Policy], rows: int, width: int, most: int, temperature: float, noise: torch.dtype
    ) -> None:
        self.rows, self.width = rows, width
        device = policies[0].model.device
        self._temperature = temperature
        self._policies = [Policy(policy.model, policy.share, _empty(policy, rows, width)) for policy in policies]
        self._ids = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._positions = torch.zeros(rows, 1, dtype=torch.long, device=device)
        self._length = torch.zeros(1, dtype=torch.long, device=device)  # tokens in the caches
        self._at = torch.zeros(1, dtype=torch.long, device=device)  # tokens written
        dtype = policies[0].model.dtype
        self._bias = torch.full((rows, 1, 1, width), torch.finfo(dtype).min, dtype=dtype, device=device)
        self._noise = torch.zeros(rows, most, dtype=noise, device=device)
        self.written = torch.zeros(rows, most, dtype=torch.long, device=device)
        self.log_probs = torch.zeros(rows, most, device=device)
        self.replay = self._replayable()

    def begin(self, policies: Sequence[Policy], first: Tensor, mask: Tensor, copies: Tensor, noise: Tensor) -> None:
        rows, length = len(copies), mask.shape[1]
        for ours, theirs in zip(self._policies, policies, strict=True):
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
        with _one_query_each(self._policies):
            log_probs = mixed_log_probs(self._policies, self._ids, self._bias, self._positions, self._temperature)
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
        for policy in self._policies:
            for layer in policy.cache.layers:
                layer.cumulative_length.fill_(length)

    def _replayable(self) -> Callable[[], None]:
        """Return the step as a graph by torch's recipe: a few runs on a side stream, then the capture, which runs
        nothing."""
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
def _one_query_each(policies: Sequence[Policy]) -> Iterator[None]:
    """Within this the models attend by `_one_query`."""
    usual = [(policy.model, policy.model.config._attn_implementation) for policy in policies]
    for model, _ in usual:
        model.set_attn_implementation(_ATTENTION)
    try:
        yield
    finally:
        for model, name in reversed(usual):
            model.set_attn_implementation(name)


def can_capture(model: Any) -> bool:
    """Return whether the model's step runs without looking at values, with plain attention, and no layer forgets."""
    slides = getattr(model.config, "sliding_window", None) is not None
    plain = model._can_compile_fullgraph and model._supports_sdpa
    return bool(plain) and sees_all(model) and not slides


def _adapters(model: Any) -> Hashable:
    """Return which of the model's adapters are on, layer by layer; empty for a model without any."""
    layers = [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
    return tuple((layer.disable_adapters, *layer.active_adapters) for layer in layers)


def _empty(policy: Policy, rows: int, width: int) -> StaticCache:
    cache = StaticCache(policy.model.config, width)
    for layer, read in zip(cache.layers, policy.cache.layers, strict=True):
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
    """Attend with one query a row. Query heads that share keys become queries of one head, where transformers would
    write H / K copies of the keys instead."""
    rows, heads, _, size = query.shape
    grouped = query.reshape(rows, key.shape[1], heads // key.shape[1], size)
    found = torch.nn.functional.scaled_dot_product_attention(grouped, key, value, attention_mask, scale=scaling)
    return found.reshape(rows, 1, heads, size), None


AttentionInterface.register(_ATTENTION, _one_query)


class Policies(Protocol):
    """The models that are sampled: `Roles` while they learn, or a bundle that is evaluated."""

    @property
    def device(self) -> torch.device: ...

    def merged(self, role: Role) -> Any:
        """Return a model that speaks as this role until the next call."""

    def sampling_reference(self) -> Any:
        """Return the reference, which a mixture needs to stay valid beside the model that `merged` returns."""


@dataclass(slots=True)
class _Decoding:
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: bool = False


class HFRollout:
    def __init__(
        self,
        roles: Policies,
        settings: RolloutSettings,
        end_ids: frozenset[int],
        mixture: float = 0.0,
        captured: bool | None = None,
    ) -> None:
        """`mixture`: the reference's share in nash-md's mixture. `captured`: whether to decode in fixed shapes, which
        CUDA graphs need; None: on GPUs, where the model allows it."""
        self._roles = roles
        self._settings = settings
        self._end_ids = end_ids
        self._mixture = mixture
        self._is_captured = captured
        self._captured = Captured(settings.temperature, settings.max_new_tokens, end_ids)

    @torch.no_grad()
    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        models = self._models(player)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # less padding
        found: dict[int, Sample] = {}
        for start in range(0, len(order), self._settings.batch_size):
            chosen = order[start : start + self._settings.batch_size]
            noise = torch.tensor(
                np.stack([np.random.default_rng(seeds[i]).random(self._settings.max_new_tokens) for i in chosen]),
                device=self._roles.device,
            )
            policies = [Policy(model, share) for model, share in models]
            found.update(zip(chosen, self._batch([prompts[i] for i in chosen], policies, noise), strict=True))
        return [found[i] for i in range(len(prompts))]

    def _models(self, player: Player) -> list[tuple[Any, float]]:
        if player == "reference":
            return [(self._roles.sampling_reference(), 1.0)]
        if player == "mixture":
            reference = self._roles.sampling_reference()
            return [(self._roles.merged("leader"), 1 - self._mixture), (reference, self._mixture)]
        return [(self._roles.merged(player), 1.0)]

    def _batch(self, prompts: list[Ids], policies: list[Policy], noise: Tensor) -> list[Sample]:
        unique = list(dict.fromkeys(prompts))  # a prompt of several answers is read once
        rows = {prompt: row for row, prompt in enumerate(unique)}
        copies = torch.tensor([rows[prompt] for prompt in prompts], device=noise.device)  # (B,)
        ids, mask = left_padded(unique, noise.device)  # (U, P)
        first = self._log_probs(policies, ids, mask)  # (U, V)
        if self._captures(policies):
            found, log_probs = self._captured.decode(policies, first, mask, copies, noise)
            return [self._cut(*answer) for answer in zip(found.tolist(), log_probs.tolist(), strict=True)]
        return self._decode(policies, first, mask, copies, noise)

    def _captures(self, policies: Sequence[Policy]) -> bool:
        asked = self._roles.device.type == "cuda" if self._is_captured is None else self._is_captured
        return asked and all(can_capture(policy.model) for policy in policies)

    def _cut(self, ids: list[int], logps: list[float]) -> Sample:
        ends = (at for at, token in enumerate(ids, start=1) if token in self._end_ids)
        end = next(ends, None)
        return Sample(tuple(ids[:end]), tuple(logps[:end]), end is not None)

    def _decode(
        self, policies: list[Policy], log_probs: Tensor, mask: Tensor, copies: Tensor, noise: Tensor
    ) -> list[Sample]:
        """Decode token by token; rows that have ended leave the batch."""
        drafts = [_Decoding() for _ in copies]
        rows = torch.arange(len(copies), device=noise.device)  # which answer each row of the batch is
        if len(mask) < len(copies):
            log_probs, mask = log_probs[copies], mask[copies]
            for policy in policies:
                policy.cache.batch_select_indices(copies)
        for step in range(noise.shape[1]):
            ids = by_inverse_cdf(log_probs, noise[rows, step])[:, None]  # (B, 1)
            chosen = log_probs.gather(1, ids)[:, 0].tolist()
            alive = self._write(drafts, rows.tolist(), ids[:, 0].tolist(), chosen)
            if not any(alive) or step == noise.shape[1] - 1:
                break
            if alive.count(False) * 4 >= len(alive):  # not for each one: dropping rows copies the cache
                kept = torch.tensor([i for i, lives in enumerate(alive) if lives], device=noise.device)
                rows, ids, mask = rows[kept], ids[kept], mask[kept]
                for policy in policies:
                    policy.cache.batch_select_indices(kept)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            log_probs = self._log_probs(policies, ids, mask)  # (B, V)
        return [Sample(tuple(d.ids), tuple(d.logps), d.ended) for d in drafts]

    def _log_probs(self, policies: list[Policy], ids: Tensor, mask: Tensor) -> Tensor:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return mixed_log_probs(policies, ids, mask, positions, self._settings.temperature)

    def _write(self, drafts: list[_Decoding], rows: list[int], ids: list[int], logps: list[float]) -> list[bool]:
        """Append a token to each answer that has not ended, and return whether each row goes on."""
        for row, token, logp in zip(rows, ids, logps, strict=True):
            if not drafts[row].ended:
                drafts[row].ids.append(token)
                drafts[row].logps.append(logp)
                drafts[row].ended = token in self._end_ids
        return [not drafts[row].ended for row in rows]
