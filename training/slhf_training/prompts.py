"""The two roles' prompts as token ids.

The template is rendered with a marker in place of each content: only the template's own text yields special tokens,
and content is encoded as plain text, so that a draft that spells `<|im_end|>` does not end its own turn. The Leader's
answer goes into the Follower's prompt as the ids it was sampled as.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from jinja2 import TemplateError
from tokenizers import Tokenizer

from slhf import FOLLOWER_TURN, follower_turn
from slhf_training.chats import Chat
from slhf_training.errors import DataError, SettingsError
from slhf_training.rollout import Ids

_MARKER = "\ue000{}\ue001"  # private-use characters: no template holds them, and no content is searched for them


class Prompts:
    """For one fast tokenizer of transformers, with a chat template."""

    def __init__(self, tokenizer: Any, turn: str = FOLLOWER_TURN, end_ids: Sequence[int] = ()) -> None:
        """`end_ids`: what ends an answer, besides the tokenizer's end-of-sequence token."""
        if not tokenizer.chat_template:
            raise SettingsError("model: its tokenizer has no chat template")
        self._tokenizer = tokenizer
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())  # a copy: what is exported stays as is
        self._backend.encode_special_tokens = True  # tokenizers' name for "encode them as plain text"
        self._special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._special_ids = frozenset(self._special.values())
        self.end_ids = frozenset([*end_ids, tokenizer.eos_token_id])
        longest_first = sorted(self._special, key=len, reverse=True)
        self._boundary = re.compile("(" + "|".join([*map(re.escape, longest_first), r"\ue000\d+\ue001"]) + ")")
        self._turn = follower_turn(turn)
        self._template = lru_cache(self._with_markers)  # contents are markers: the same for all chats of one shape
        self._plain = lru_cache(4096)(self._encode_plain)
        padded = f" {_MARKER.format(0)} "
        self._template_trims = padded not in self._render([{"role": "user", "content": padded}])

    def leader(self, chat: Chat) -> Ids:
        """Raises DataError where the model's template refuses the order or kind of turns."""
        return self._encode([(m["role"], m["content"]) for m in chat])

    def follower(self, chat: Chat, draft: Ids) -> Ids:
        said = tuple(i for i in draft if i not in self._special_ids and i not in self.end_ids)
        return self._encode([*((m["role"], m["content"]) for m in chat), ("assistant", said), ("user", self._turn)])

    def ids(self, text: str) -> Ids:
        """A draft that was not sampled here; what it spells of special tokens is plain text."""
        return self._encode_plain(text)

    def text(self, answer: Ids) -> str:
        return str(self._tokenizer.decode([i for i in answer if i not in self.end_ids], skip_special_tokens=True))

    def _encode(self, turns: Sequence[tuple[str, str | Ids]]) -> Ids:
        rendered = self._template(tuple(role for role, _ in turns))
        ids: list[int] = []
        run = ""  # plain text since the last special token: encoded in one go, as ordinary tokenisation would
        for piece in self._pieces(rendered, [content for _, content in turns]):
            if isinstance(piece, str):
                run += piece
            else:
                ids += self._plain(run)
                ids += piece
                run = ""
        return (*ids, *self._plain(run))

    def _pieces(self, rendered: str, contents: Sequence[str | Ids]) -> Iterator[str | Ids]:
        """The rendered template cut at special tokens and markers: text, or ids to take as they are."""
        for piece in self._boundary.split(rendered):
            if piece in self._special:
                yield (self._special[piece],)
            elif piece.startswith("\ue000"):
                content = contents[int(piece[1:-1])]
                yield content.strip() if isinstance(content, str) and self._template_trims else content
            else:
                yield piece

    def _encode_plain(self, text: str) -> Ids:
        return tuple(self._backend.encode(text, add_special_tokens=False).ids) if text else ()

    def _with_markers(self, roles: tuple[str, ...]) -> str:
        return self._render([{"role": role, "content": _MARKER.format(i)} for i, role in enumerate(roles)])

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as exc:
            raise DataError(f"the model's chat template refuses this conversation: {exc}") from exc
