"""Sampling with transformers: our own loop on a merged copy, because it must keep three promises `generate` does not.

Each answer has its own random numbers; the distribution is the policy's at one temperature and nothing else; and
finished answers leave the batch. Sampling is by inverse CDF (one uniform number a token), 20 times cheaper on a
CPU than `torch.multinomial`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from slhf_training.roles import Role
from slhf_training.rollout import Ids, Player, Sample
from slhf_training.scoring import left_padded
from slhf_training.settings import Rollout as RolloutSettings


class Speakers(Protocol):
    """What is sampled: `Roles` while they learn, or a bundle that is evaluated."""

    @property
    def device(self) -> torch.device: ...

    def merged(self, role: Role) -> Any:
        """A model that speaks as this role, until the next call."""

    def sampling_reference(self) -> Any:
        """The reference. A mixture needs it to stay so beside `merged`."""


@dataclass(slots=True)
class _Voice:
    """A model that speaks with a share in the logits, and what it remembers."""

    model: Any
    share: float
    cache: Any = None


@dataclass(slots=True)
class _Draft:
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: bool = False


class HFRollout:
    def __init__(
        self, roles: Speakers, settings: RolloutSettings, end_ids: frozenset[int], mixture: float = 0.0
    ) -> None:
        self._roles = roles
        self._settings = settings
        self._end_ids = end_ids
        self._mixture = mixture

    @torch.no_grad()
    def sample(self, prompts: Sequence[Ids], player: Player, seeds: Sequence[int]) -> list[Sample]:
        models = self._models(player)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))  # less padding
        found: dict[int, Sample] = {}
        for start in range(0, len(order), self._settings.batch_size):
            chosen = order[start : start + self._settings.batch_size]
            noise = torch.tensor(
                np.stack([np.random.default_rng(seeds[i]).random(self._settings.max_new_tokens) for i in chosen])
            )
            voices = [_Voice(model, share) for model, share in models]
            found.update(zip(chosen, self._batch([prompts[i] for i in chosen], voices, noise), strict=True))
        return [found[i] for i in range(len(prompts))]

    def _models(self, player: Player) -> list[tuple[Any, float]]:
        if player == "reference":
            return [(self._roles.sampling_reference(), 1.0)]
        if player == "mixture":
            reference = self._roles.sampling_reference()
            return [(self._roles.merged("leader"), 1 - self._mixture), (reference, self._mixture)]
        return [(self._roles.merged(player), 1.0)]

    def _batch(self, prompts: list[Ids], voices: list[_Voice], noise: Tensor) -> list[Sample]:
        device = self._roles.device
        noise = noise.to(device)
        drafts = [_Draft() for _ in prompts]
        rows = torch.arange(len(prompts), device=device)  # which draft each row of the batch is
        unique = list(dict.fromkeys(prompts))
        copies = torch.tensor([unique.index(prompt) for prompt in prompts], device=device)  # (B,)
        ids, mask = left_padded(unique, device)  # (U, P)
        for step in range(noise.shape[1]):
            log_probs = self._log_probs(voices, ids, mask)  # (B, V)
            if step == 0 and len(unique) < len(prompts):  # a prompt of several answers is read once
                log_probs, mask = log_probs[copies], mask[copies]
                for voice in voices:
                    voice.cache.batch_select_indices(copies)
            ids = by_inverse_cdf(log_probs, noise[rows, step])[:, None]  # (B, 1)
            chosen = log_probs.gather(1, ids)[:, 0].tolist()
            alive = self._write(drafts, rows.tolist(), ids[:, 0].tolist(), chosen)
            if not any(alive):
                break
            if alive.count(False) * 4 >= len(alive):  # dropping rows copies the cache: not for each one
                kept = torch.tensor([i for i, lives in enumerate(alive) if lives], device=device)
                rows, ids, mask = rows[kept], ids[kept], mask[kept]
                for voice in voices:
                    voice.cache.batch_select_indices(kept)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
        return [Sample(tuple(d.ids), tuple(d.logps), d.ended) for d in drafts]

    def _log_probs(self, voices: list[_Voice], ids: Tensor, mask: Tensor) -> Tensor:
        """(B, V), at the temperature; several voices are mixed geometrically."""
        mixed: Tensor | None = None
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
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
            log_probs = torch.log_softmax(out.logits[:, -1].float() / self._settings.temperature, dim=-1)
            mixed = voice.share * log_probs if mixed is None else mixed + voice.share * log_probs
        assert mixed is not None
        return mixed if len(voices) == 1 else torch.log_softmax(mixed, dim=-1)

    def _write(self, drafts: list[_Draft], rows: list[int], ids: list[int], logps: list[float]) -> list[bool]:
        """Append a token to each draft that has not ended; whether each row goes on."""
        for row, token, logp in zip(rows, ids, logps, strict=True):
            if not drafts[row].ended:
                drafts[row].ids.append(token)
                drafts[row].logps.append(logp)
                drafts[row].ended = token in self._end_ids
        return [not drafts[row].ended for row in rows]


def by_inverse_cdf(log_probs: Tensor, uniform: Tensor) -> Tensor:  # (B, V), (B,) -> (B,)
    """The first token whose cumulative probability exceeds the number: never one of probability zero."""
    cdf = log_probs.double().exp().cumsum(dim=-1)
    at = (uniform.double() * cdf[:, -1])[:, None]
    return torch.searchsorted(cdf, at, right=True)[:, 0].clamp(max=cdf.shape[1] - 1)
