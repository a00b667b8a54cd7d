"""How close an answer comes to a good one: p(first beats second) = sigmoid((c(first) - c(second)) / s).

c is chrF against the reference, 0 to 100: the F-score of the character n-grams that both hold (Popovic 2015, by
sacrebleu); s is the `scale`. Overlap judges a single text badly, but unlike a model's score it cannot be won over by a
text that says nothing. With BLEU as the only reward, training comes near a reward model in "BLEUBERI: BLEU is a
surprisingly effective reward for instruction following" (arXiv 2505.11080).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from sacrebleu.metrics.chrf import CHRF

from slhf_training.data.load import DataSettings, load
from slhf_training.errors import SettingsError
from slhf_training.preference import Preference, SourceSettings
from slhf_training.types import Chat, ChatKey, Probabilities, chat_key, sigmoid


class ReferenceSettings(SourceSettings):
    kind: Literal["reference"]
    data: tuple[DataSettings, ...] = Field(min_length=1)
    """Rows with a `reference`, or with a pair, whose better answer is then the reference; others are passed over."""
    scale: float = Field(default=5.0, gt=0)
    """Points of chrF; a difference of this size gives p = 0.73."""

    def source(self) -> Preference:
        return reference_of(self)


class Reference:
    """It abstains (NaN) from a chat without a reference."""

    def __init__(self, references: Mapping[ChatKey, str], scale: float) -> None:
        self._references, self._scale = references, scale
        self._chrf = CHRF()

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        asked = [
            [(chat_key(chat), answer) for chat, answer in zip(chats, side, strict=True)] for side in (first, second)
        ]
        scores = {text: self._score(*text) for side in asked for text in dict.fromkeys(side)}
        a, b = (np.array([scores[text] for text in side]) for side in asked)
        return sigmoid((a - b) / self._scale)

    def _score(self, asked: ChatKey, answer: str) -> float:
        reference = self._references.get(asked)
        return np.nan if reference is None else float(self._chrf.sentence_score(answer, [reference]).score)


def reference_of(settings: ReferenceSettings) -> Preference:
    found = {chat_key(example.chat): example.best for data in settings.data for example in load(data) if example.best}
    if not found:
        raise SettingsError("data: no row has a reference or a pair")
    return Reference(found, settings.scale)
