"""How plausible a frozen language model finds an answer: p(first beats second) = sigmoid((f(first) - f(second)) / s).

Here s is the `scale`, and f is the mean over the answer's tokens, its end included, of min(log-prob, -floor), in nats.
Heads on pooled states hardly notice incoherence (docs/experiments/incoherence.md), but likelihood does. The floor keeps
it from rewarding text that repeats itself: tokens that are all but certain count no more than those of ordinary text.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from slhf_training.config import ModelName
from slhf_training.models.load import fast_dtype, load_causal
from slhf_training.models.prompts import Prompts
from slhf_training.models.scoring import answer_log_probs, together
from slhf_training.models.sharding import this_process
from slhf_training.preference import Preference, SourceSettings, by_difference
from slhf_training.types import Chat, Ids, Probabilities

BATCH = 64 if torch.cuda.is_available() else 8
"""Most answers that are read at once."""


class FluencySettings(SourceSettings):
    kind: Literal["fluency"]
    model: ModelName = Field(min_length=1)
    """A chat model: a hub id, builtin:smollm2-135m, or a directory's path that starts with ".", "/" or "~"."""
    floor: float = Field(default=1.0, ge=0)
    """Nats; a token less surprising than this counts as this surprising."""
    scale: float = Field(default=0.5, gt=0)
    """Nats a token; a difference of this size gives p = 0.73."""
    max_tokens: int = Field(default=1024, gt=1)
    """Most tokens of chat and answer together; a longer text gives NaN."""

    def source(self) -> Preference:
        return fluency_of(self)


class Fluency:
    def __init__(self, model: Any, tokenizer: Any, settings: FluencySettings) -> None:
        self.model, self._settings = model, settings
        self._prompts, self._end = Prompts(tokenizer), int(tokenizer.eos_token_id)

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return by_difference(self.scores([*chats, *chats], [*first, *second]), self._settings.scale)

    def scores(self, chats: Sequence[Chat], answers: Sequence[str]) -> Probabilities:
        """(B,): f of each, in nats a token; NaN where a text is too long. Equal texts are read once."""
        texts = [
            (self._prompts.leader(chat), (*self._prompts.ids(answer), self._end))
            for chat, answer in zip(chats, answers, strict=True)
        ]
        unique = [text for text in dict.fromkeys(texts) if sum(map(len, text)) <= self._settings.max_tokens]
        prompts, lengths = [prompt for prompt, _ in unique], [len(answer) for _, answer in unique]
        batches = together(prompts, lengths, BATCH, self.model.device)
        found = {text: score for batch in batches for text, score in self._read([unique[index] for index in batch])}
        return np.array([found.get(text, np.nan) for text in texts])

    @torch.no_grad()
    def _read(self, texts: Sequence[tuple[Ids, Ids]]) -> list[tuple[tuple[Ids, Ids], float]]:
        prompts, answers = zip(*texts, strict=True)
        log_probs = answer_log_probs(self.model, prompts, answers, 1.0, self.model.device)
        capped = log_probs.clamp(max=-self._settings.floor)  # (B, T)
        return [(text, row[: len(text[1])].mean().item()) for text, row in zip(texts, capped, strict=True)]


def fluency_of(settings: FluencySettings) -> Preference:
    tokenizer, model = load_causal(settings.model, fast_dtype())
    return Fluency(model.eval().requires_grad_(False).to(this_process().device), tokenizer, settings)
