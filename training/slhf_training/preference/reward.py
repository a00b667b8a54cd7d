"""Reward models trained here as judges: one head, or a vote of several.

`reward`: one Bradley-Terry head, p(first beats second) = sigmoid(r(first) - r(second)).

`attributes`: attribute heads vote, source (a) of SLHF (arXiv 2512.16626). p(y beats y') is the share of attributes on
which y scores at least y'. It departs from that in two ways. An attribute on which both score the same gives half a
vote to each, so that swapping the answers gives one minus the value. A `soft` vote is the attribute's Bradley-Terry
probability, so that a policy which learns from it also hears by how much an answer lost.
"""

from collections.abc import Sequence
from typing import Literal

from slhf_training.config import RelativePath
from slhf_training.errors import SettingsError
from slhf_training.preference import Preference, SourceSettings
from slhf_training.reward.model import RewardModel, Votes, vote
from slhf_training.types import Chat, Probabilities, sigmoid


class RewardSettings(SourceSettings):
    kind: Literal["reward"]
    model: RelativePath
    """A directory that `slhf-train reward` wrote."""
    head: str | None = None
    """Which of its heads; None: the only one."""

    def source(self) -> Preference:
        return reward_of(self)


class Reward:
    """It abstains (NaN) where either answer, with its chat, is longer than the model reads."""

    def __init__(self, model: RewardModel, head: str) -> None:
        self._model, self._head = model, head

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        a, b = self._model.both(chats, first, second, [self._head])  # (1, B) each
        return sigmoid((a - b)[0])


def reward_of(settings: RewardSettings) -> Preference:
    model = RewardModel.load(settings.model)
    head = settings.head or next(iter(model.heads))
    if settings.head is None and len(model.heads) > 1:
        raise SettingsError(f"head: {settings.model} has several: {', '.join(model.heads)}")
    model.require([head], f"head: {settings.model}")
    return Reward(model, head)


class AttributesSettings(SourceSettings):
    kind: Literal["attributes"]
    model: RelativePath
    """A directory that `slhf-train reward` wrote."""
    attributes: tuple[str, ...] = ()
    """The heads that vote; all of them where none is named."""
    votes: Votes = "hard"

    def source(self) -> Preference:
        return attributes_of(self)


class Attributes:
    """It abstains (NaN) where either answer, with its chat, is longer than the model reads."""

    def __init__(self, model: RewardModel, attributes: Sequence[str], votes: Votes = "hard") -> None:
        self._model, self._attributes, self._votes = model, attributes, votes

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return vote(*self._model.both(chats, first, second, self._attributes), self._votes)


def attributes_of(settings: AttributesSettings) -> Preference:
    model = RewardModel.load(settings.model)
    model.require(settings.attributes, f"attributes: {settings.model}")
    return Attributes(model, settings.attributes or tuple(model.heads), settings.votes)
