"""Attribute reward models that vote, source (a) of SLHF (arXiv 2512.16626).

p(y beats y') is the share of attributes on which y scores at least y'. Departures: an attribute on which both score the
same gives half a vote to each, so that swapping the answers gives one minus the value. A `soft` vote is the attribute's
Bradley-Terry probability: whoever learns from it hears by how much an answer lost, too.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from slhf_training.config import RelativePath, Section
from slhf_training.preference import Preference, Probabilities
from slhf_training.preference.reward import sigmoid
from slhf_training.reward.model import RewardModel
from slhf_training.types import Chat

Votes = Literal["hard", "soft"]


class AttributesSettings(Section):
    kind: Literal["attributes"]
    model: RelativePath
    """A directory that `slhf-train preference` wrote."""
    attributes: tuple[str, ...] = ()
    """The heads that vote; none: all."""
    votes: Votes = "hard"


class Attributes:
    """NaN where either answer is longer, with its chat, than the model reads."""

    def __init__(self, model: RewardModel, attributes: Sequence[str], votes: Votes = "hard") -> None:
        self._model, self._attributes, self._votes = model, attributes, votes

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return vote(*self._model.both(chats, first, second, self._attributes), self._votes)


def vote(
    a: Probabilities,  # (A, B): scores of the first answers by attribute
    b: Probabilities,  # (A, B)
    votes: Votes = "hard",
) -> Probabilities:
    """(B,): the share of attributes won, ties half; NaN where a score is."""
    won: Probabilities = sigmoid(a - b) if votes == "soft" else (1 + np.sign(a - b)) / 2
    share: Probabilities = won.mean(axis=0)
    return share


def attributes_of(settings: AttributesSettings) -> Preference:
    model = RewardModel.load(settings.model)
    model.require(settings.attributes, f"attributes: {settings.model}")
    return Attributes(model, settings.attributes or tuple(model.heads), settings.votes)
