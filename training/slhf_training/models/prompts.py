"""The two roles' prompts as token ids, made as the server makes them (slhf/chat_template.py).

The Leader's answer goes into the Follower's prompt as the ids it was sampled as.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from slhf import FOLLOWER_TURN, follower_turn
from slhf.chat_template import ChatRefused, ChatTemplate, UnusableTokenizer
from slhf.chats import Turn
from slhf.special_tokens import Piece
from slhf.turns import with_own_answers
from slhf_training.errors import DataError, SettingsError
from slhf_training.types import Chat, Ids


class Prompts:
    """Both roles' prompts for a fast tokenizer of transformers that has a chat template."""

    def __init__(
        self, tokenizer: Any, turn: str = FOLLOWER_TURN, end_ids: Sequence[int] = (), key: str = "model"
    ) -> None:
        """`end_ids` end an answer, as the tokenizer's end-of-sequence token does.

        Raises SettingsError naming the key where no prompts can be made with the tokenizer.
        """
        try:
            self._template = ChatTemplate(tokenizer)
        except UnusableTokenizer as exc:
            raise SettingsError(f"{key}: {exc}") from exc
        self._tokenizer = tokenizer
        self._special_ids = frozenset(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)
        self.end_ids = frozenset([*end_ids, tokenizer.eos_token_id])
        self._turn = follower_turn(turn)
        self._cached = lru_cache(4096)(self._encode)

    def leader(self, chat: Chat) -> Ids:
        """Raises DataError where the model's template refuses the order or kind of turns."""
        return self._cached(tuple((m["role"], m["content"]) for m in chat))

    def follower(self, chat: Chat, draft: Ids, own: Sequence[str] = (), instruction: str | None = None) -> Ids:
        """`own`: answers of its own that it has before it. `instruction`: what a request wishes (slhf/turns.py)."""
        said = tuple(i for i in draft if i not in self._special_ids and i not in self.end_ids)
        turn = with_own_answers(follower_turn(self._turn, instruction), own)
        return self._encode((*((m["role"], m["content"]) for m in chat), ("assistant", said), ("user", turn)))

    def ids(self, text: str) -> Ids:
        """A draft that was not sampled here; what it spells of special tokens is plain text."""
        return tuple(self._template.tokens.encode([Piece(text, 0)])) if text else ()

    def text(self, answer: Ids) -> str:
        return str(self._tokenizer.decode([i for i in answer if i not in self.end_ids], skip_special_tokens=True))

    def _encode(self, turns: tuple[Turn, ...]) -> Ids:
        try:
            return tuple(self._template.encode(turns))
        except ChatRefused as exc:
            raise DataError(f"the model's chat template refuses this conversation: {exc}") from exc
