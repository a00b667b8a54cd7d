"""Several preference sources as one: their weighted mean, or a weighted vote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from slhf_training.config import Section
from slhf_training.preference import Preference, Probabilities
from slhf_training.types import Chat

if TYPE_CHECKING:
    from slhf_training.preference.registry import PreferenceSettings


class Weighted(Section):
    weight: float = Field(default=1.0, gt=0)
    preference: PreferenceSettings


class MixtureSettings(Section):
    kind: Literal["mixture"]
    sources: tuple[Weighted, ...] = Field(min_length=1)
    vote: bool = False
    """Each source counts as a voter for one answer (1, or 0.5 each in a tie) instead of with its probability."""


class Mixture:
    """A source that abstains from a pair leaves its weight to the others; where all abstain the mixture does."""

    def __init__(self, sources: Sequence[tuple[float, Preference]], *, vote: bool = False) -> None:
        self._weights = np.array([weight for weight, _ in sources])[:, None]  # (S, 1)
        self._sources = [source for _, source in sources]
        self._vote = vote

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        p = np.stack([source(chats, first, second) for source in self._sources])  # (S, B)
        if self._vote:
            p = (1 + np.sign(p - 0.5)) / 2  # NaN stays NaN
        weights = np.where(np.isnan(p), 0.0, self._weights)
        total = weights.sum(axis=0)
        mean: Probabilities = np.where(
            total > 0, np.nansum(weights * p, axis=0) / np.where(total > 0, total, 1), np.nan
        )
        return mean
