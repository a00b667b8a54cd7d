"""Random Llamas of a few thousand weights, with tokenizers of whole words or of bytes, and a chat template.

Padding and end of sequence are the same token, as in many real tokenizers.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import AddedToken, Tokenizer, decoders
from tokenizers.models import BPE, WordLevel
from tokenizers.pre_tokenizers import ByteLevel, WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, LlamaModel, PreTrainedTokenizerFast

from slhf_training.fit import FitSettings
from slhf_training.fit.step import DraftPool
from slhf_training.fit.trainer import GameTrainer
from slhf_training.fit.validation import Validation
from slhf_training.models.prompts import Prompts
from slhf_training.models.roles import DTYPES, Roles
from slhf_training.rollout.hf import HFRollout
from slhf_training.types import Chat, Probabilities

WORDS = ["?", "A", "B", "C", "which", "say", "improve", "it"]
SPECIAL = ["<end>", "<user>", "<assistant>"]
VOCABULARY = len(WORDS) + len(SPECIAL)
END = len(WORDS)
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
BRIEF = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
"""A draft is one of a Follower's four tokens. Among ten, a model of this size all but overlooks it: it learns one reply
to all drafts first, and words that it has ruled out by then are never sampled again."""
CHAT: Chat = [{"role": "user", "content": "which"}]


def tokenizer(template: str = TEMPLATE) -> Any:
    """Of the words above."""
    backend = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    backend.pre_tokenizer = WhitespaceSplit()
    backend.add_special_tokens([AddedToken(s, special=True, normalized=False) for s in SPECIAL])
    return _fast(backend, template, "<end>", additional_special_tokens=SPECIAL[1:])


def byte_tokenizer() -> Any:
    """256 bytes after the end token, 0."""
    vocabulary = ["</s>", *sorted(ByteLevel.alphabet())]
    backend = Tokenizer(BPE({letter: i for i, letter in enumerate(vocabulary)}, []))
    backend.pre_tokenizer = ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _fast(backend, TEMPLATE.replace(" <end> ", "</s>").replace("> {{", ">{{"), "</s>")


def _fast(backend: Tokenizer, template: str, end: str, **more: Any) -> Any:
    found = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token=end, pad_token=end, **more)
    found.chat_template = template
    return found


def config(
    vocabulary: int, end: int, hidden_size: int, initializer_range: float, heads: int = 4, tied: bool = False
) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden_size,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=heads // 2,
        max_position_embeddings=512,
        initializer_range=initializer_range,
        bos_token_id=None,
        eos_token_id=end,
        pad_token_id=end,
        tie_word_embeddings=tied,
    )


def model(seed: int = 0, dtype: torch.dtype = torch.float32, heads: int = 4, tied: bool = False) -> Any:
    """Speaks the words."""
    torch.manual_seed(seed)
    found = LlamaForCausalLM(config(VOCABULARY, END, 64, 0.1, heads, tied))
    # With longer rows some words are too rare to be sampled; with short ones no adapter could make one all but certain.
    found.lm_head.weight.data *= 1.2
    return found.to(dtype)


def write_backbone(directory: Path, seed: int = 0) -> Path:
    """A body that reads bytes, as a checkpoint with its tokenizer."""
    words = byte_tokenizer()
    words.save_pretrained(directory)
    torch.manual_seed(seed)
    LlamaModel(config(len(words), 0, hidden_size=32, initializer_range=0.2)).save_pretrained(directory)
    return directory


def settings(directory: Path, **changes: Any) -> FitSettings:
    """`changes` by section: game={...}, optimisation={...}, rollout={...}, or a key of the top."""
    base: dict[str, Any] = {
        "model": "tiny",
        "output_dir": str(directory),
        "data": {"files": ["chats.jsonl"]},
        "preference": {"kind": "callable", "function": "judges:best"},
        "follower_turn": "improve it",
        "lora": {"r": 8, "alpha": 16},
        "game": {"baseline": "half", "replies_per_draft": 1, "leader_update_every": 1},
        "rollout": {"max_new_tokens": 4, "dtype": "float32", "temperature": 1.0},
        "optimisation": {"steps": 2, "batch_size": 8, "micro_batch_size": 8, "learning_rate": 1e-2},
        "report_to": [],
    }
    for key, value in changes.items():
        base[key] = {**base.get(key, {}), **value} if isinstance(value, dict) else value
    return FitSettings.model_validate(base)


def trainer(
    fit: FitSettings,
    preference: Any,
    chats: Sequence[Chat] | None = None,
    template: str = TEMPLATE,
    seed: int = 0,
    draft_pool: DraftPool | None = None,
    validation: Validation | None = None,
    dtype: torch.dtype = torch.float32,
) -> GameTrainer:
    """`seed`: of the base model. The fit's own is that of adapters and answers. `dtype`: of the base model."""
    base = model(seed, dtype)
    torch.manual_seed(fit.seed)
    words = tokenizer(template)
    roles = Roles(base, fit.weights, fit.lora, fit.plays.trains, DTYPES[fit.rollout.dtype])
    prompts = Prompts(words, fit.follower_turn)
    rollout = HFRollout(roles, fit.rollout, prompts.end_ids, fit.game.mixture)
    many = [CHAT] * (fit.optimisation.batch_size * 4) if chats is None else chats
    return GameTrainer(roles, prompts, many, preference, rollout, fit, draft_pool=draft_pool, validation=validation)


class Matrix:
    """p(first beats second) by the first word of each answer; a listed word beats any other with `outsiders`."""

    def __init__(self, words: Sequence[str], p: Probabilities, outsiders: float = 1.0) -> None:
        self._place = {word: i for i, word in enumerate(words)}
        n = len(words)
        self.p = np.full((n + 1, n + 1), 0.5)
        self.p[:n, :n] = p
        self.p[:n, n], self.p[n, :n] = outsiders, 1 - outsiders

    def __call__(self, chats: Sequence[Chat], first: Sequence[str], second: Sequence[str]) -> Probabilities:
        return self.p[self._index(first), self._index(second)]

    def _index(self, texts: Sequence[str]) -> list[int]:
        return [self._place.get((text.split() or [""])[0], len(self._place)) for text in texts]
