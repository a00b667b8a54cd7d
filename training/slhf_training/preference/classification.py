"""Reward models of the hub: AutoModelForSequenceClassification, one score for a conversation with an answer.

p(first beats second) = sigmoid((r(first) - r(second)) / scale): the Bradley-Terry model, by which they are trained.
"""

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from slhf_training.config import ModelName
from slhf_training.errors import SettingsError
from slhf_training.models.bundles import located
from slhf_training.models.load import fast_dtype
from slhf_training.models.prompts import Prompts
from slhf_training.models.sharding import this_process, without_launcher
from slhf_training.preference import Preference, SourceSettings, by_difference
from slhf_training.types import Chat, Ids, Probabilities


class ClassificationSettings(SourceSettings):
    kind: Literal["sequence-classification"]
    model: ModelName = Field(min_length=1)
    """A hub id (Skywork/Skywork-Reward-V2-Qwen3-0.6B), or a directory's path that starts with ".", "/" or "~"."""
    label: str | None = None
    """Which of the model's labels is the score, by its configuration's `id2label`; None: the only one."""
    scale: float = Field(default=1.0, gt=0)
    """A difference of scores of this size gives p = 0.73."""
    max_tokens: int = Field(default=4096, gt=1)
    """Most tokens of chat and answer together; a longer text gives NaN."""
    batch_tokens: int = Field(default=16384, gt=0)
    """Tokens that are read at once, padding included."""

    def source(self) -> Preference:
        return classification_of(self)


class SequenceClassification:
    """It abstains (NaN) where either answer, with its chat, is too long."""

    def __init__(self, model: Any, tokenizer: Any, label: int, settings: ClassificationSettings) -> None:
        self.model, self._label, self._settings = model, label, settings
        self._prompts, self._end = Prompts(tokenizer), int(tokenizer.eos_token_id)

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return by_difference(self.scores([*chats, *chats], [*first, *second]), self._settings.scale)

    def scores(self, chats: Sequence[Chat], answers: Sequence[str]) -> Probabilities:
        """(B,): the model's score of each; NaN where a text is too long. Equal texts are read once."""
        texts = [
            (*self._prompts.leader(chat), *self._prompts.ids(answer), self._end)
            for chat, answer in zip(chats, answers, strict=True)
        ]
        short = [text for text in dict.fromkeys(texts) if len(text) <= self._settings.max_tokens]
        found = {
            text: score for batch in self._batches(short) for text, score in zip(batch, self._read(batch), strict=True)
        }
        return np.array([found.get(text, np.nan) for text in texts])

    def _batches(self, texts: Sequence[Ids]) -> Iterator[list[Ids]]:
        batch: list[Ids] = []
        for text in sorted(texts, key=len):
            if batch and (len(batch) + 1) * len(text) > self._settings.batch_tokens:
                yield batch
                batch = []
            batch.append(text)
        if batch:
            yield batch

    @torch.no_grad()
    def _read(self, texts: Sequence[Ids]) -> list[float]:
        # transformers takes the last token that is not the padding's for a text's end, and the padding's is often the
        # end's own id. So the padding is an id that no text has.
        used = set().union(*texts)
        padding = next(number for number in count() if number not in used)
        self.model.config.get_text_config().pad_token_id = self.model.config.pad_token_id = padding
        width = max(map(len, texts))
        ids = torch.tensor([[*text, *[padding] * (width - len(text))] for text in texts], device=self.model.device)
        logits = self.model(input_ids=ids, attention_mask=(ids != padding).long()).logits  # (B, labels)
        return [float(score) for score in logits[:, self._label].float().cpu()]


def classification_of(settings: ClassificationSettings) -> Preference:
    """Make the source. Raises SettingsError for a model that cannot be loaded, has no head, or not this label."""
    name = settings.model
    source = located(name, "model")
    try:
        with without_launcher():
            model, loaded = AutoModelForSequenceClassification.from_pretrained(
                source, dtype=fast_dtype(), output_loading_info=True
            )
        tokenizer = AutoTokenizer.from_pretrained(source)
    except (OSError, ValueError) as exc:
        raise SettingsError(f"model: {name}: {exc}") from exc
    if missing := ", ".join(sorted(loaded["missing_keys"])):
        raise SettingsError(f"model: {name} is no reward model: it has no weights for {missing}")
    labels = {label: number for number, label in model.config.id2label.items()}
    if settings.label is None and len(labels) > 1:
        raise SettingsError(f"label: {name} has several: {', '.join(labels)}")
    if settings.label is not None and settings.label not in labels:
        raise SettingsError(f"label: {name} has {', '.join(labels)}, and not {settings.label!r}")
    model = model.eval().requires_grad_(False).to(this_process().device)
    return SequenceClassification(model, tokenizer, labels[settings.label or next(iter(labels))], settings)
