"""Turns conversations into token ids, and token ids into what they mean for this model.

`slhf/chat_template.py` makes the ids: those of transformers for harmless text, and no text becomes structure. A turn
that carries token ids is spliced in as it is, because the prefix cache holds what the engine generated.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slhf.chat_template import ChatRefused, ChatTemplate, UnusableTokenizer
from slhf.chats import Turn as TemplateTurn
from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT
from slhf_server.errors import BadRequest, ContextLengthExceeded
from slhf_server.models.base import Turn
from slhf_server.settings.problem import SettingsError

_OPENING_IDS = 8  # enough ids to hold the opening tag, spelled out, and a line break
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + i): byte for i, byte in enumerate(sorted({*range(0x100)} - {*_PRINTABLE}))
}
"""How byte-level tokenizers spell bytes: GPT-2's table."""


class PromptEncoder:
    """Encodes chats for a fast tokenizer of transformers that has a chat template. It is safe to use in threads."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises SettingsError where no prompts can be made with the tokenizer."""
        self._tokenizer = tokenizer
        try:
            self._template = ChatTemplate(tokenizer)
        except UnusableTokenizer as exc:
            raise SettingsError(f"bundle: {exc}") from exc
        self._tokens = self._template.tokens
        self._special_ids = frozenset(i for i, t in tokenizer.added_tokens_decoder.items() if t.special)
        self._bytes: dict[int, bytes] = {}

    @classmethod
    def open(cls, weights: Path) -> "PromptEncoder":
        """The encoder of a model's directory. Raises SettingsError where its tokenizer cannot be used."""
        from transformers import AutoTokenizer  # imported here, because it takes seconds

        try:
            tokenizer = AutoTokenizer.from_pretrained(weights)
        except Exception as exc:  # sentencepiece, tokenizers, json and the tokenizer's own code raise many kinds
            said = " ".join(str(exc).split())
            raise SettingsError(f"bundle: the tokenizer in {str(weights)!r} cannot be read: {said}") from exc
        return cls(tokenizer)

    def encode(
        self,
        turns: Sequence[Turn],
        most: float = math.inf,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of the chat, ending where the assistant's next turn begins.

        Tool calls and results are told in the template's own turns where it has them and takes these, else in words.
        Raises BadRequest where the model's template refuses the order or kind of turns, and ContextLengthExceeded where
        one turn alone has more than `most` tokens: to make a list of millions of ids would stop every other thread.
        """
        for name, value in (options or {}).items():
            if isinstance(value, str) and self._tokens.are_in(value):
                param = "chat_template_kwargs"
                raise BadRequest(f"{param}: {name} holds a token that is the template's alone", param=param)
        for turn in turns:
            if turn.token_ids is None and len(turn.text) > most and (tokens := self._tokens.count(turn.text)) > most:
                raise ContextLengthExceeded(tokens, int(most))
        try:
            if self._template.has_tool_turns and any(turn.tool_turns for turn in turns):
                try:
                    return self._template.encode(_with_tool_turns(turns), tools, options)
                except ChatRefused:  # Llama 3's takes one call in a turn, Mistral's none without its result
                    pass
            return self._template.encode([_as_text(turn) for turn in turns], tools, options)
        except ChatRefused as exc:
            raise BadRequest(f"the model's chat template refuses this conversation: {exc}", param="messages") from exc

    @property
    def shows_tools(self) -> bool:
        """Whether the template tells the model of tools that it may call."""
        return self._template.shows_tools

    @property
    def template_text(self) -> str:
        """The template that chats with tools are rendered by."""
        template = self._tokenizer.chat_template
        return str(template.get("tool_use", template["default"])) if isinstance(template, dict) else str(template)

    @property
    def tokenizer(self) -> Any:
        """transformers' tokenizer, for vLLM's parsers."""
        return self._tokenizer

    @property
    def most_characters_per_token(self) -> float:
        """A bound: a text of n times as many characters has at least n tokens. Infinite where no bound is known."""
        return self._tokens.most_characters_per_token

    def faithful(self, token_ids: Sequence[int], text: str) -> tuple[int, ...] | None:
        """The ids if they may stand for the text in a later prompt: none is special, and they decode to exactly it."""
        if self._special_ids.intersection(token_ids) or self._tokenizer.decode(token_ids) != text:
            return None
        return tuple(token_ids)

    def opens_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the template has begun the assistant's turn with `<think>`, which the model then does not write."""
        return str(self._tokenizer.decode(prompt_ids[-_OPENING_IDS:])).rstrip().endswith(OPEN_THOUGHT)

    def reasoning_tokens(self, generated: Sequence[int], text: str) -> int:
        """How many of the generated ids are thoughts, the closing `</think>` included; all, where it never came.

        `text` is the decoded ids, with `<think>` in front where the prompt opened the thoughts.
        """
        if not text.lstrip().startswith(OPEN_THOUGHT):
            return 0
        if CLOSE_THOUGHT not in text:
            return len(generated)
        closing = self._tokens.id_of(CLOSE_THOUGHT)
        if closing is not None and closing in generated:
            return list(generated).index(closing) + 1
        lengths = range(1, len(generated) + 1)
        return 1 + bisect_left(lengths, True, key=lambda n: CLOSE_THOUGHT in self._tokenizer.decode(generated[:n]))

    def token_bytes(self, token_id: int) -> bytes:
        """The bytes that the token stands for, which may be a part of a character."""
        if token_id not in self._bytes:
            self._bytes[token_id] = self._spelled(token_id)
        return self._bytes[token_id]

    def _spelled(self, token_id: int) -> bytes:
        """The token's bytes as byte-level or byte-fallback tokenizers spell them, if the tokenizer decodes the same."""
        text = str(self._tokenizer.decode([token_id]))
        token = self._tokens.token_of(token_id)
        if single := re.fullmatch("<0x([0-9A-F]{2})>", token):
            return bytes.fromhex(single[1])
        if all(character in _BYTE_OF for character in token):
            spelled = bytes(_BYTE_OF[character] for character in token)
            if spelled.decode(errors="replace") == text:
                return spelled
        return text.encode()


def _as_text(turn: Turn) -> TemplateTurn:
    return turn.role, turn.token_ids or turn.text


def _with_tool_turns(turns: Sequence[Turn]) -> list[TemplateTurn]:
    return [told for turn in turns for told in (turn.tool_turns or [_as_text(turn)])]
