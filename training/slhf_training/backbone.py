"""A language model's body as a reader of answers: hidden states of chosen layers, averaged over the answer's tokens."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor
from transformers import AutoModel, AutoTokenizer

from slhf_training.chats import Chat
from slhf_training.errors import SettingsError


@dataclass(frozen=True, slots=True, order=True)
class Text:
    """A chat and an answer as tokens; the answer ends with EOS, so it has at least one."""

    ids: tuple[int, ...]
    prompt: int  # the answer starts here


class Backbone:
    """`layers` counts from 1, the first block's output; the last one comes with the model's final norm."""

    def __init__(self, model: Any, tokenizer: Any, layers: Sequence[int], max_tokens: int, batch_tokens: int) -> None:
        self.model, self.tokenizer, self.layers = model, tokenizer, tuple(layers)
        self.max_tokens, self.batch_tokens = max_tokens, batch_tokens
        self.size: int = model.config.hidden_size * len(self.layers)
        self.autocast = False  # bf16 arithmetic on float32 weights

    @classmethod
    def load(cls, name: str, layers: Sequence[int], max_tokens: int, batch_tokens: int, *, dtype: str = "auto") -> Self:
        """From a path or hub id, on the GPU where there is one. No layers: the last. Raises SettingsError."""
        try:
            model = AutoModel.from_pretrained(name, dtype=dtype).eval()
            tokenizer = AutoTokenizer.from_pretrained(name)
        except (OSError, ValueError) as exc:
            raise SettingsError(f"backbone: {name}: {exc}") from exc
        count = model.config.num_hidden_layers
        if not all(1 <= layer <= count for layer in layers):
            raise SettingsError(f"layers: {name} has layers 1 to {count}, got {list(layers)}")
        if layers and isinstance(getattr(model, "layers", None), torch.nn.ModuleList):
            del model.layers[max(layers) + 1 :]  # nobody reads them (the last one kept is normed, so one more stays)
        model.requires_grad_(False).to("cuda" if torch.cuda.is_available() else "cpu")
        return cls(model, tokenizer, layers or (count,), max_tokens, batch_tokens)

    def encode(self, chat: Chat, answer: str) -> Text | None:
        """None where it has more than `max_tokens` tokens: nothing is cut."""
        prompt = self.tokenizer.apply_chat_template(list(chat), add_generation_prompt=True, tokenize=False)
        start = self.tokenizer.encode(prompt, add_special_tokens=False)
        ids = (*start, *self.tokenizer.encode(answer, add_special_tokens=False), self.tokenizer.eos_token_id)
        return Text(ids, len(start)) if len(ids) <= self.max_tokens else None

    def features(self, chats: Sequence[Chat], answers: Sequence[str]) -> Tensor:
        """(N, F) float32 on the CPU, without gradients; NaN where a text is too long.

        Equal texts are read once and get equal features, whatever they are batched with.
        """
        texts = [self.encode(chat, answer) for chat, answer in zip(chats, answers, strict=True)]
        unique = sorted({text for text in texts if text is not None}, key=lambda text: (len(text.ids), text))
        rows: dict[Text | None, Tensor] = {None: torch.full((self.size,), torch.nan)}
        with torch.no_grad():
            for batch in batches(unique, self.batch_tokens):
                rows.update(zip(batch, self.pooled(batch).cpu(), strict=True))
        return torch.stack([rows[text] for text in texts]) if texts else torch.empty(0, self.size)

    def pooled(self, texts: Sequence[Text]) -> Tensor:
        """(N, F) float32: one forward pass over right-padded texts; masks come from lengths (pad may equal EOS)."""
        device = self.model.device
        lengths = torch.tensor([len(text.ids) for text in texts], device=device)[:, None]  # (N, 1)
        starts = torch.tensor([text.prompt for text in texts], device=device)[:, None]
        place = torch.arange(int(lengths.max()), device=device)[None]  # (1, T)
        ids = torch.zeros(len(texts), place.shape[1], dtype=torch.long, device=device)
        for row, text in zip(ids, texts, strict=True):
            row[: len(text.ids)] = torch.tensor(text.ids)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.autocast):
            states = self.model(
                input_ids=ids, attention_mask=(place < lengths).long(), output_hidden_states=True, use_cache=False
            ).hidden_states
        answer = ((place >= starts) & (place < lengths)).float()[..., None]  # (N, T, 1)
        return torch.cat([(states[layer].float() * answer).sum(1) / answer.sum(1) for layer in self.layers], dim=1)


def batches(texts: Sequence[Text], tokens: int) -> Iterator[list[Text]]:
    """Consecutive texts with at most `tokens` tokens with padding, one text at least. Sort by length first."""
    batch: list[Text] = []
    longest = 0
    for text in texts:
        longest = max(longest, len(text.ids))
        if batch and longest * (len(batch) + 1) > tokens:
            yield batch
            batch, longest = [], len(text.ids)
        batch.append(text)
    if batch:
        yield batch
