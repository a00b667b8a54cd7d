"""A language model's body as a reader of answers: hidden states of chosen layers, averaged over the answer's tokens.

Answers to one chat share a row (models/scoring.py), so the chat is read once. Each answer ends with EOS. Special tokens
that a text spells out are plain text (models/prompts.py).
"""

import logging
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn import Module, ModuleList
from transformers import AutoModel, AutoTokenizer

from slhf_training.errors import SettingsError
from slhf_training.models.bundles import located
from slhf_training.models.load import fast_dtype
from slhf_training.models.prompts import Prompts
from slhf_training.models.scoring import Reading, attention_bias, tables
from slhf_training.models.sharding import this_process, without_launcher
from slhf_training.types import Chat, ChatKey, Ids, chat_key

_LOG = logging.getLogger(__name__)
ANSWERS = 4
"""Most answers in a row."""
LOG_EVERY_S = 30.0


class Backbone:
    """`layers` counts from 1, the first block's output; the last layer's states have passed the model's final norm."""

    def __init__(self, model: Any, tokenizer: Any, layers: Sequence[int], max_tokens: int, batch_tokens: int) -> None:
        """Raises SettingsError where the tokenizer has no usable chat template."""
        self.model, self.tokenizer, self.layers = model, tokenizer, tuple(layers)
        self._prompts = Prompts(tokenizer, key="backbone")
        self.max_tokens, self.batch_tokens = max_tokens, batch_tokens
        self.size: int = model.config.hidden_size * len(self.layers)
        self.autocast = False  # bf16 arithmetic on float32 weights
        self.log_every_s = LOG_EVERY_S

    @classmethod
    def load(
        cls, name: str, layers: Sequence[int], max_tokens: int, batch_tokens: int, *, dtype: str | None = None
    ) -> Self:
        """Load the backbone of a path, hub id or builtin onto this process's own device.

        Without `layers` the last one is read; `dtype` None takes the one that is fast here. Raises SettingsError naming
        the key.
        """
        source = located(name, "backbone")
        try:
            with without_launcher():
                model = AutoModel.from_pretrained(source, dtype=dtype or fast_dtype()).eval()
            tokenizer = AutoTokenizer.from_pretrained(source)
        except (OSError, ValueError) as exc:
            raise SettingsError(f"backbone: {name}: {exc}") from exc
        count = model.config.num_hidden_layers
        if not all(1 <= layer <= count for layer in layers):
            raise SettingsError(f"layers: {name} has layers 1 to {count}, got {list(layers)}")
        _cut(model, max(layers, default=count))
        model.requires_grad_(False).to(this_process().device)
        return cls(model, tokenizer, layers or (count,), max_tokens, batch_tokens)

    def encode(self, chat: Chat, answers: Sequence[str]) -> Reading | None:
        """Return the chat and its answers as ids. Nothing is cut: it is None where an answer, with the chat, has more
        than `max_tokens` tokens."""
        prompt = self._prompts.leader(chat)
        ids = tuple((*self._prompts.ids(answer), self.tokenizer.eos_token_id) for answer in answers)
        return Reading(prompt, ids) if len(prompt) + max(map(len, ids)) <= self.max_tokens else None

    def features(self, chats: Sequence[Chat], answers: Sequence[str]) -> Tensor:
        """(N, F) float32 on the CPU, without gradients; NaN where a text is too long.

        Equal texts are read once and get equal features, whatever they are batched with.
        """
        encoded: dict[tuple[ChatKey, str], Reading | None] = {}
        keys = [*zip(map(chat_key, chats), answers, strict=True)]
        for key, chat, answer in zip(keys, chats, answers, strict=True):
            if key not in encoded:
                encoded[key] = self.encode(chat, [answer])
        texts = [encoded[key] for key in keys]
        rows: dict[tuple[Ids, Ids], Tensor] = {}
        readings = _gathered([text for text in texts if text])
        with torch.no_grad():
            for batch in logged(list(batches(readings, self.batch_tokens)), self.log_every_s):
                names = [(reading.prompt, answer) for reading in batch for answer in reading.answers]
                rows.update(zip(names, self.pooled(batch).cpu(), strict=True))
        unread = torch.full((self.size,), torch.nan)
        found = [rows[text.prompt, text.answers[0]] if text else unread for text in texts]
        return torch.stack(found) if found else torch.empty(0, self.size)

    def pooled(self, readings: Sequence[Reading]) -> Tensor:
        """(answers of all readings, F) float32, by one forward pass. Masks come from lengths, as pad may equal EOS."""
        device = self.model.device
        ids, positions, segments = (table.to(device) for table in tables(readings))  # (N, T) each
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            states = self.model(
                input_ids=ids,
                attention_mask=attention_bias(segments, self.model.dtype),
                position_ids=positions,
                output_hidden_states=True,
                use_cache=False,
            ).hidden_states
        most = max(len(reading.answers) for reading in readings)
        answers = segments[:, None] == torch.arange(1, most + 1, device=device)[:, None]  # (N, K, T)
        present = answers.any(-1)  # (N, K)
        shares = answers.float() / answers.sum(-1, keepdim=True).clamp_min(1)
        return torch.cat([(shares @ states[layer].float())[present] for layer in self.layers], dim=1)


def _cut(model: Any, last: int) -> None:
    """Drop the blocks behind the last one that is read, and the final norm, which is for the whole model's end."""
    blocks, norm = getattr(model, "layers", None), getattr(model, "norm", None)
    if last < model.config.num_hidden_layers and isinstance(blocks, ModuleList) and isinstance(norm, Module):
        del blocks[last:]
        model.norm = torch.nn.Identity()


def batches(readings: Sequence[Reading], tokens: int) -> Iterator[list[Reading]]:
    """Yield batches of consecutive readings with at most `tokens` tokens, padding included; each has one at least.

    Readings that are sorted by length need less padding.
    """
    batch: list[Reading] = []
    for reading in readings:
        longest = max(one.length for one in (*batch, reading))
        if batch and longest * (len(batch) + 1) > tokens:
            yield batch
            batch = []
        batch.append(reading)
    if batch:
        yield batch


def logged(parts: Sequence[list[Reading]], every_s: float) -> Iterator[list[Reading]]:
    """Yield the parts, and log about every `every_s` seconds how many of their tokens are read."""
    tokens = [sum(reading.length for reading in part) for part in parts]
    done, last = 0, time.monotonic()
    for part, size in zip(parts, tokens, strict=True):
        yield part
        done += size
        if time.monotonic() - last >= every_s:
            _LOG.info("%d of %d tokens read", done, sum(tokens))
            last = time.monotonic()


def _gathered(texts: Sequence[Reading]) -> list[Reading]:
    """Return each answer once, at most ANSWERS of a chat together, in an order that depends on the texts alone."""
    by_prompt: dict[Ids, set[Ids]] = defaultdict(set)
    for text in texts:
        by_prompt[text.prompt].update(text.answers)
    readings = []
    for prompt, unique in by_prompt.items():
        answers = sorted(unique)
        readings += [Reading(prompt, tuple(answers[i : i + ANSWERS])) for i in range(0, len(answers), ANSWERS)]
    return sorted(readings, key=lambda reading: (reading.length, reading.prompt, reading.answers))
