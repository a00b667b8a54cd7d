"""A causal model in this process as judge: it is asked for one word, and the log-probs of two words are its verdict.

`ask: better` asks which of two answers is better, A or B, in both orders, because small models favour a place.
`ask: good` asks of each answer alone whether it is good, yes or no. The two err in different ways. What questions about
one chat have in common is read once: they share a row (models/scoring.py), each behind their common beginning.
"""

import math
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from slhf.bundle import revision_of
from slhf_training.config import ModelName, RelativePath
from slhf_training.errors import SettingsError
from slhf_training.models.load import fast_dtype, load_causal
from slhf_training.models.prompts import Prompts
from slhf_training.models.scoring import LONGEST_ROW, Reading, attention_bias, reads_packed, tables
from slhf_training.models.sharding import this_process
from slhf_training.preference import Cache, Preference, SourceSettings, both_orders
from slhf_training.reward.backbone import LOG_EVERY_S, batches, logged
from slhf_training.types import Chat, Ids, Message, Probabilities, as_text, digest, sigmoid

QUESTIONS = 4
"""Most questions in a row. Attention costs as much for questions that do not see each other as for those that do."""
_SPACES = "Ġ▁ "
"""The space before a word, as vocabularies write it: byte-level BPE, sentencepiece, and others."""


class CausalModelSettings(SourceSettings):
    kind: Literal["model"]
    model: ModelName = Field(min_length=1)
    """A chat model: a hub id, builtin:NAME, or a directory's path that starts with ".", "/" or "~"."""
    ask: Literal["better", "good"] = "better"
    """`better`: which of the two, A or B. `good`: of each alone, yes or no."""
    scale: float = Field(default=1.0, gt=0)
    """Nats, for `ask: good`; a difference of this size gives p = 0.73."""
    max_tokens: int = Field(default=2048, gt=1)
    """Most tokens of a whole question with its answers; a longer one gives NaN."""
    batch_tokens: int = Field(default=4096, gt=1)
    """Most tokens of one forward pass, padding included (a single longer row is read alone)."""
    cache: RelativePath | None = None
    """A file of judgements that outlives the run; None: kept in memory."""

    def source(self) -> Preference:
        return model_of(self)


class WordOdds:
    """Log-odds of one word over another as the reply to questions; each question is read once and then remembered."""

    def __init__(
        self, model: Any, tokenizer: Any, words: tuple[str, str], settings: CausalModelSettings, name: str
    ) -> None:
        """`name` tells models apart in the cache. Raises SettingsError where a word is no token of the model."""
        self._model, self._settings = model, settings
        self._prompts, self._cache = Prompts(tokenizer), Cache(settings.cache)
        self._name = (name, *words)
        ids = [spellings(tokenizer, word) for word in words]
        if not all(ids):
            raise SettingsError(f"model: {settings.model} has no token for {' or none for '.join(words)}")
        self._spellings = [len(of_word) for of_word in ids]
        self._head = Words(model.get_output_embeddings(), [*ids[0], *ids[1]])

    def log_odds(self, chats: Sequence[Chat], questions: Sequence[str]) -> Probabilities:
        """(B,) float64, in nats; NaN where a question is too long. `chats` are what the questions are about."""
        asked = [self._prompts.leader([Message(role="user", content=question)]) for question in questions]
        found = {ids: self._cache.get(self._key(ids)) for ids in asked}
        by_chat: dict[str, dict[Ids, None]] = defaultdict(dict)
        for chat, ids in zip(chats, asked, strict=True):
            if found[ids] is None and len(ids) <= self._settings.max_tokens:
                by_chat[as_text(chat)][ids] = None
        most = QUESTIONS if reads_packed(self._model) else 1
        found.update(self._read([row for group in by_chat.values() for row in packed(list(group), most)]))
        return np.array([math.nan if (odds := found[ids]) is None else odds for ids in asked])

    def _key(self, ids: Ids) -> str:
        return digest([*self._name, ids])

    def _read(self, rows: Sequence[Reading]) -> dict[Ids, float]:
        found: dict[Ids, float] = {}
        ordered = sorted(rows, key=lambda reading: reading.length)
        for batch in logged(list(batches(ordered, self._settings.batch_tokens)), LOG_EVERY_S):
            asked = [reading.prompt + answer for reading in batch for answer in reading.answers]
            judged = dict(zip(asked, self._pass(batch), strict=True))
            self._cache.put_all({self._key(ids): odds for ids, odds in judged.items()})
            found |= judged
        return found

    @torch.no_grad()
    def _pass(self, readings: Sequence[Reading]) -> list[float]:
        """The log-odds of all questions of the readings, in order."""
        ids, positions, segments = (table.to(self._model.device) for table in tables(readings))  # (N, T) each
        packs = reads_packed(self._model)
        with _headed(self._model, self._head):
            logits = self._model(
                input_ids=ids,
                attention_mask=attention_bias(segments, self._model.dtype) if packs else (segments >= 0).long(),
                position_ids=positions,
                use_cache=False,
            ).logits  # (N, T, tokens of both words)
        rows = [row for row, reading in enumerate(readings) for _ in reading.answers]
        ends = [column for reading in readings for column in _ends(reading)]
        yes, no = logits[rows, ends].double().split(self._spellings, dim=-1)  # (Q, tokens of one word) each
        odds: list[float] = (yes.logsumexp(-1) - no.logsumexp(-1)).tolist()
        return odds


class Words(torch.nn.Module):
    """A model's head cut down to some tokens, in float32: in bfloat16, logits about 20 come in steps of 1/8 nat."""

    def __init__(self, head: Any, ids: Sequence[int]) -> None:
        super().__init__()
        self.weight = head.weight.detach()[ids].float()
        self.bias = None if head.bias is None else head.bias.detach()[ids].float()

    def forward(self, states: Tensor) -> Tensor:
        return torch.nn.functional.linear(states.float(), self.weight, self.bias)


@contextmanager
def _headed(model: Any, head: Words) -> Iterator[None]:
    """Within this the model has this head: several sources share a model, each with words of its own."""
    whole = model.get_output_embeddings()
    model.set_output_embeddings(head)
    try:
        yield
    finally:
        model.set_output_embeddings(whole)


class Better:
    """p is the probability of A among A and B, averaged over both orders."""

    def __init__(self, asked: WordOdds) -> None:
        self._asked = asked
        self._both = both_orders(self._one_order)

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return self._both(chats, first, second)

    def _one_order(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        questions = [better(chat, a, b) for chat, a, b in zip(chats, first, second, strict=True)]
        return sigmoid(self._asked.log_odds(chats, questions))


class Good:
    """p is the sigmoid of the difference between both answers' log-odds of yes, divided by the scale."""

    def __init__(self, asked: WordOdds, scale: float) -> None:
        self._asked, self._scale = asked, scale

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        twice = [*chats, *chats]
        questions = [good(chat, answer) for chat, answer in zip(twice, [*first, *second], strict=True)]
        odds = self._asked.log_odds(twice, questions)
        return sigmoid((odds[: len(chats)] - odds[len(chats) :]) / self._scale)


def better(chat: Chat, a: str, b: str) -> str:
    return f"""\
[Conversation]
{as_text(chat)}

[Answer A]
{a}

[Answer B]
{b}

Which answer is better? Reply with one letter, A or B."""


def good(chat: Chat, answer: str) -> str:
    return f"""\
[Conversation]
{as_text(chat)}

[Answer]
{answer}

Is this a good answer? Reply with one word, Yes or No."""


def spellings(tokenizer: Any, word: str) -> list[int]:
    """Return the ids of the tokens that say the word, in capitals or not, with a space before it or not."""
    wanted = word.lower()
    return sorted(i for token, i in tokenizer.get_vocab().items() if token.lstrip(_SPACES).lower() == wanted)


def packed(questions: Sequence[Ids], most: int) -> list[Reading]:
    """Return rows of at most `most` different questions about one chat, behind the beginning that they share."""
    rows = []
    for start in range(0, len(questions), most):
        together = _behind(questions[start : start + most])
        alone = together.length > LONGEST_ROW
        rows += [_behind([ids]) for ids in questions[start : start + most]] if alone else [together]
    return rows


def _behind(questions: Sequence[Ids]) -> Reading:
    """Return the questions behind their common beginning; each keeps its last token at least, which is judged."""
    shortest = min(map(len, questions)) - 1
    differ = (place for place, column in enumerate(zip(*questions, strict=False)) if len(set(column)) > 1)
    common = min(next(differ, shortest), shortest)
    return Reading(questions[0][:common], tuple(question[common:] for question in questions))


def _ends(reading: Reading) -> list[int]:
    """Return the columns of the questions' last tokens."""
    return list(accumulate(map(len, reading.answers), initial=len(reading.prompt) - 1))[1:]


@cache
def _loaded(name: str) -> tuple[Any, Any, str]:
    """Load tokenizer, model and revision once: sources that ask one model share it."""
    tokenizer, model = load_causal(name, fast_dtype())
    source = Path(model.name_or_path)
    revision = revision_of(source) if source.is_dir() else f"{name}@{model.config._commit_hash}"
    return tokenizer, model.eval().requires_grad_(False).to(this_process().device), revision


def model_of(settings: CausalModelSettings) -> Preference:
    """Make the source. Raises SettingsError for a model that cannot be loaded, or a bad cache file."""
    tokenizer, model, revision = _loaded(settings.model)
    if settings.ask == "better":
        return Better(WordOdds(model, tokenizer, ("A", "B"), settings, revision))
    return Good(WordOdds(model, tokenizer, ("Yes", "No"), settings, revision), settings.scale)
