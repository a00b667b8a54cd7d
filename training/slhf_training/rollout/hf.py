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

from slhf_training.models.scoring import left_padded
from slhf_training.rollout import RolloutSettings
from slhf_training.rollout.captured import Captured, can_capture
from slhf_training.rollout.sampling import Voice, by_inverse_cdf, mixed_log_probs
from slhf_training.types import Ids, Player, Role, Sample


class Speakers(Protocol):
    """What is sampled: `Roles` while they learn, or a bundle that is evaluated."""

    @property
    def device(self) -> torch.device: ...

    def merged(self, role: Role) -> Any:
        """A model that speaks as this role, until the next call."""

    def sampling_reference(self) -> Any:
        """The reference. A mixture needs it to stay so beside `merged`."""


@dataclass(slots=True)
class _Draft:
    ids: list[int] = field(default_factory=list)
    logps: list[float] = field(default_factory=list)
    ended: bool = False


class HFRollout:
    def __init__(
        self,
        roles: Speakers,
        settings: RolloutSettings,
        end_ids: frozenset[int],
        mixture: float = 0.0,
        captured: bool | None = None,
    ) -> None:
        """`captured`: decode in fixed shapes, which CUDA graphs need. None: on GPUs, where the model allows it."""
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
            voices = [Voice(model, share) for model, share in models]
            found.update(zip(chosen, self._batch([prompts[i] for i in chosen], voices, noise), strict=True))
        return [found[i] for i in range(len(prompts))]

    def _models(self, player: Player) -> list[tuple[Any, float]]:
        if player == "reference":
            return [(self._roles.sampling_reference(), 1.0)]
        if player == "mixture":
            reference = self._roles.sampling_reference()
            return [(self._roles.merged("leader"), 1 - self._mixture), (reference, self._mixture)]
        return [(self._roles.merged(player), 1.0)]

    def _batch(self, prompts: list[Ids], voices: list[Voice], noise: Tensor) -> list[Sample]:
        unique = list(dict.fromkeys(prompts))  # a prompt of several answers is read once
        rows = {prompt: row for row, prompt in enumerate(unique)}
        copies = torch.tensor([rows[prompt] for prompt in prompts], device=noise.device)  # (B,)
        ids, mask = left_padded(unique, noise.device)  # (U, P)
        first = self._log_probs(voices, ids, mask)  # (U, V)
        if self._captures(voices):
            found, log_probs = self._captured.decode(voices, first, mask, copies, noise)
            return [self._cut(*answer) for answer in zip(found.tolist(), log_probs.tolist(), strict=True)]
        return self._decode(voices, first, mask, copies, noise)

    def _captures(self, voices: Sequence[Voice]) -> bool:
        asked = self._roles.device.type == "cuda" if self._is_captured is None else self._is_captured
        return asked and all(can_capture(voice.model) for voice in voices)

    def _cut(self, ids: list[int], logps: list[float]) -> Sample:
        ends = (at for at, token in enumerate(ids, start=1) if token in self._end_ids)
        end = next(ends, None)
        return Sample(tuple(ids[:end]), tuple(logps[:end]), end is not None)

    def _decode(
        self, voices: list[Voice], log_probs: Tensor, mask: Tensor, copies: Tensor, noise: Tensor
    ) -> list[Sample]:
        """Token by token; rows that have ended leave."""
        drafts = [_Draft() for _ in copies]
        rows = torch.arange(len(copies), device=noise.device)  # which draft each row of the batch is
        if len(mask) < len(copies):
            log_probs, mask = log_probs[copies], mask[copies]
            for voice in voices:
                voice.cache.batch_select_indices(copies)
        for step in range(noise.shape[1]):
            ids = by_inverse_cdf(log_probs, noise[rows, step])[:, None]  # (B, 1)
            chosen = log_probs.gather(1, ids)[:, 0].tolist()
            alive = self._write(drafts, rows.tolist(), ids[:, 0].tolist(), chosen)
            if not any(alive) or step == noise.shape[1] - 1:
                break
            if alive.count(False) * 4 >= len(alive):  # dropping rows copies the cache: not for each one
                kept = torch.tensor([i for i, lives in enumerate(alive) if lives], device=noise.device)
                rows, ids, mask = rows[kept], ids[kept], mask[kept]
                for voice in voices:
                    voice.cache.batch_select_indices(kept)
            mask = torch.cat([mask, mask.new_ones(len(rows), 1)], dim=1)
            log_probs = self._log_probs(voices, ids, mask)  # (B, V)
        return [Sample(tuple(d.ids), tuple(d.logps), d.ended) for d in drafts]

    def _log_probs(self, voices: list[Voice], ids: Tensor, mask: Tensor) -> Tensor:
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        return mixed_log_probs(voices, ids, mask, positions, self._settings.temperature)

    def _write(self, drafts: list[_Draft], rows: list[int], ids: list[int], logps: list[float]) -> list[bool]:
        """Append a token to each draft that has not ended; whether each row goes on."""
        for row, token, logp in zip(rows, ids, logps, strict=True):
            if not drafts[row].ended:
                drafts[row].ids.append(token)
                drafts[row].logps.append(logp)
                drafts[row].ended = token in self._end_ids
        return [not drafts[row].ended for row in rows]
