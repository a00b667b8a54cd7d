"""One Bradley-Terry reward model: p(first beats second) = sigmoid(r(first) - r(second))."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from slhf_training.config import RelativePath, Section
from slhf_training.errors import SettingsError
from slhf_training.preference import Preference, Probabilities
from slhf_training.reward.model import RewardModel
from slhf_training.types import Chat


class RewardSettings(Section):
    kind: Literal["reward"]
    model: RelativePath
    """A directory that `slhf-train preference` wrote."""
    head: str | None = None
    """Which of its heads; None: the only one."""


class Reward:
    """NaN where either answer is longer, with its chat, than the model reads."""

    def __init__(self, model: RewardModel, head: str) -> None:
        self._model, self._head = model, head

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        a, b = self._model.both(chats, first, second, [self._head])  # (1, B) each
        return sigmoid((a - b)[0])


def sigmoid(x: Probabilities) -> Probabilities:
    """Without overflow at either end; NaN stays NaN."""
    p: Probabilities = (1 + np.tanh(x / 2)) / 2
    return p


def reward_of(settings: RewardSettings) -> Preference:
    model = RewardModel.load(settings.model)
    head = settings.head or next(iter(model.heads))
    if settings.head is None and len(model.heads) > 1:
        raise SettingsError(f"head: {settings.model} has several: {', '.join(model.heads)}")
    model.require([head], f"head: {settings.model}")
    return Reward(model, head)
