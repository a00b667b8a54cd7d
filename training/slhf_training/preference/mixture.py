"""Several preference sources as one: their weighted mean or vote, or what a panel of them agrees on."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from slhf_training.config import Section
from slhf_training.preference import Preference, PreferenceSettings, SourceSettings
from slhf_training.types import Chat, Probabilities


class Weighted(Section):
    weight: float = Field(default=1.0, gt=0)
    preference: PreferenceSettings


class MixtureSettings(SourceSettings):
    kind: Literal["mixture"]
    sources: tuple[Weighted, ...] = Field(min_length=1)
    vote: bool = False
    """Each source counts as a voter for one answer (1, or 0.5 each in a tie) instead of with its probability."""

    def source(self) -> Preference:
        sources = [(one.weight, one.preference.source()) for one in self.sources]
        return Mixture(sources, vote=self.vote)


class Mixture:
    """A source that abstains from a pair leaves its weight to the others; where all abstain, so does the mixture."""

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


class JudgeOfPanel(Section):
    preference: PreferenceSettings
    least: float = Field(default=0.0, ge=0, lt=0.5)
    """How far p has to be from a half before this judge says anything."""


class PanelSettings(SourceSettings):
    kind: Literal["panel"]
    judges: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], JudgeOfPanel] = Field(min_length=2)

    def source(self) -> Preference:
        return Panel({name: (one.preference.source(), one.least) for name, one in self.judges.items()})


class Panel:
    """It abstains (NaN) where one judge abstains, is no surer than its `least`, or sees another winner than the rest.

    `asked` and `spoke` count pairs.
    """

    def __init__(self, judges: Mapping[str, tuple[Preference, float]]) -> None:
        """`judges`: by name, each judge with its `least`."""
        self._judges = {name: judge for name, (judge, _) in judges.items()}
        self._least = np.array([least for _, least in judges.values()])[:, None]  # (J, 1)
        self.asked = 0
        self.spoke = 0

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return self.verdict(self.votes(chats, first, second))

    def votes(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> dict[str, Probabilities]:
        """(B,) by judge: the preferences of each one, whatever the others say."""
        return {name: judge(chats, first, second) for name, judge in self._judges.items()}

    def verdict(self, votes: Mapping[str, Probabilities]) -> Probabilities:
        """(B,): the mean where all judges agree, else NaN."""
        p = np.stack([votes[name] for name in self._judges])  # (J, B)
        beyond = p - 0.5
        agreed = (beyond > self._least).all(axis=0) | (-beyond > self._least).all(axis=0)
        self.asked += p.shape[1]
        self.spoke += int(agreed.sum())
        mean: Probabilities = np.where(agreed, p.mean(axis=0), np.nan)
        return mean
