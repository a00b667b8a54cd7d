"""Several judges who speak where all agree, and abstain elsewhere: one that errs alone is not heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field

from slhf_training.config import Section
from slhf_training.preference import Preference, Probabilities
from slhf_training.types import Chat

if TYPE_CHECKING:
    from slhf_training.preference.registry import PreferenceSettings


class JudgeOfPanel(Section):
    preference: PreferenceSettings
    least: float = Field(default=0.0, ge=0, lt=0.5)
    """How far p has to be from a half before this judge says anything."""


class PanelSettings(Section):
    kind: Literal["panel"]
    judges: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], JudgeOfPanel] = Field(min_length=2)


class Panel:
    """NaN where one judge abstains, is no surer than its `least`, or sees another winner than the rest.

    `asked` and `spoke` count pairs.
    """

    def __init__(self, judges: Mapping[str, tuple[Preference, float]]) -> None:
        """Each judge with its `least`."""
        self._judges = {name: judge for name, (judge, _) in judges.items()}
        self._least = np.array([least for _, least in judges.values()])[:, None]  # (J, 1)
        self.asked = 0
        self.spoke = 0

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return self.verdict(self.votes(chats, first, second))

    def votes(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> dict[str, Probabilities]:
        """(B,) of each judge, whatever the others say."""
        return {name: judge(chats, first, second) for name, judge in self._judges.items()}

    def verdict(self, votes: Mapping[str, Probabilities]) -> Probabilities:
        """(B,): the mean of those who agree, or NaN."""
        p = np.stack([votes[name] for name in self._judges])  # (J, B)
        beyond = p - 0.5
        agreed = (beyond > self._least).all(axis=0) | (-beyond > self._least).all(axis=0)
        self.asked += p.shape[1]
        self.spoke += int(agreed.sum())
        mean: Probabilities = np.where(agreed, p.mean(axis=0), np.nan)
        return mean
