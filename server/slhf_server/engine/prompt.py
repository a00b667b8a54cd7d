"""Turns conversations into token ids, and token ids into what they mean for this model.

`slhf/chat_template.py` makes the ids: those of transformers for harmless text, and no text becomes structure. A turn
that carries token ids is spliced in as it is, because the prefix cache holds what the engine generated.
"""

import asyncio
import math
import re
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from slhf.chat_template import ChatRefused, ChatTemplate, UnusableTokenizer
from slhf.chats import Turn as TemplateTurn
from slhf.special_tokens import Piece
from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT
from slhf_server.errors import BadRequest, ContextLengthExceeded, UnknownToken
from slhf_server.models.base import Turn
from slhf_server.settings.problem import SettingsError

_SMALL, _FEW = 8 << 10, 32  # characters and turns that are encoded in a millisecond or two
_LONG = 64 << 10
_LONG_PROMPTS = ThreadPoolExecutor(1, "long-prompts")  # each may take seconds, and they wait for each other alone
_OPENING_IDS = 8  # enough ids to hold the opening tag, spelled out, and a line break
_REPLACED = "\ufffd"  # how a part of a character is decoded
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
        self._widest_token = self.most_characters_per_token

    @classmethod
    def open(cls, weights: Path) -> "PromptEncoder":
        """The encoder of a model's directory, by transformers. Raises SettingsError where it cannot be used."""
        from transformers import AutoTokenizer  # imported here, because it takes seconds

        return cls(_read(AutoTokenizer.from_pretrained, weights))

    @classmethod
    def open_light(cls, weights: Path) -> "PromptEncoder":
        """As `open`, without transformers."""
        from slhf_server.engine.tokenizer import FastTokenizer  # imported here, because it needs jinja2

        return cls(_read(FastTokenizer, weights))

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
        self._check_options(options or {})
        return self._encoded(self._template, turns, most, tools, options)

    def _encoded(
        self,
        template: ChatTemplate,
        turns: Sequence[Turn],
        most: float,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        for turn in turns:
            if turn.token_ids is None:
                self._check_length(turn.text, most)
        try:
            if template.has_tool_turns and any(turn.tool_turns for turn in turns):
                try:
                    return template.encode(_with_tool_turns(turns), tools, options)
                except ChatRefused:  # Llama 3's takes one call in a turn, Mistral's none without its result
                    pass
            return template.encode([_as_text(turn) for turn in turns], tools, options)
        except ChatRefused as exc:
            raise BadRequest(f"the model's chat template refuses this conversation: {exc}", param="messages") from exc

    def _check_options(self, options: Mapping[str, Any]) -> None:
        for name, value in options.items():
            if isinstance(value, str) and self._tokens.are_in(value):
                param = "chat_template_kwargs"
                raise BadRequest(f"{param}: {name} holds a token that is the template's alone", param=param)

    def _check_length(self, text: str, most: float) -> None:
        if len(text) > most and (tokens := self._tokens.count(text)) > most:
            raise ContextLengthExceeded(tokens, int(most))

    # What follows implements `Tokenizer` (models/base.py).

    def chat_ids(
        self, turns: Sequence[Turn], most: int, *, generation_prompt: bool = True, special_tokens: bool = False
    ) -> list[int]:
        template = self._template if generation_prompt else self._template.without_generation_prompt()
        ids = self._encoded(template, turns, most)
        if len(ids) > most:
            raise ContextLengthExceeded(len(ids), most)
        return self._with_special_tokens(ids) if special_tokens else ids

    def count(self, turns: Sequence[Turn], most: int, tools: Sequence[Mapping[str, Any]] = ()) -> int:
        return len(self._encoded(self._template, turns, most, tools))

    def text_ids(self, text: str, most: int, *, special_tokens: bool) -> list[int]:
        self._check_length(text, most)
        return self._plainly(text, special_tokens)

    def tokens(self, ids: Sequence[int]) -> list[str]:
        return [self._tokens.token_of(token_id) for token_id in ids]

    def text(self, ids: Sequence[int]) -> str:
        if "" in (spelled := self.tokens(ids)):
            raise UnknownToken(ids, spelled)
        return self.decode(ids)

    def _plainly(self, text: str, special_tokens: bool) -> list[int]:
        """The ids of a text as transformers and vLLM encode it; control tokens in it are read as such."""
        backend = self._tokenizer.backend_tokenizer
        return list(backend.encode_batch([text], add_special_tokens=special_tokens)[0].ids)

    def _with_special_tokens(self, ids: list[int]) -> list[int]:
        """The ids with what the tokenizer puts around every text, which a sample shows."""
        core, whole = self._plainly("a", False), self._plainly("a", True)
        added = len(whole) - len(core)  # in front, unless the sample is found elsewhere
        start = next((at for at in range(added) if whole[at : at + len(core)] == core), added)
        return [*whole[:start], *ids, *whole[start + len(core) :]]

    async def encode_beside(
        self,
        turns: Sequence[Turn],
        limit: int,
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """As `encode`, for a context of `limit` tokens. A prompt that is not small is encoded in a thread; one that can
        never fit is refused."""
        texts = [turn.text for turn in turns if turn.token_ids is None]
        least = sum(len(text.strip()) for text in texts)  # a template may trim
        if least > limit * self._widest_token:
            raise ContextLengthExceeded(math.ceil(least / self._widest_token), limit)
        encode = partial(self.encode, turns, limit, tools, options)
        characters = sum(map(len, texts)) + sum(map(len, map(str, tools)))
        if characters <= _SMALL and len(turns) <= _FEW:
            return encode()
        pool = None if characters <= _LONG else _LONG_PROMPTS
        return await asyncio.get_running_loop().run_in_executor(pool, encode)

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text by itself, without special tokens around it."""
        return self._tokens.encode([Piece(text)])

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of the ids, special tokens included."""
        return str(self._tokenizer.decode(token_ids))

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

    def token_text(self, token_id: int, before: Sequence[int]) -> str:
        """What the token says after those `before` it, as vLLM decodes it: what it completes of a character that they
        have begun, and nothing where it leaves one unfinished."""
        text = self.decode([token_id])
        for first in range(len(before) - 1, -1, -1) if text.endswith(_REPLACED) else ():
            context = list(before[first:])
            said = self.decode([*context, token_id])
            if not said.endswith(_REPLACED):
                while context and self.decode(context[-1:]).endswith(_REPLACED):
                    context.pop()
                return said.removeprefix(self.decode(context) if context else "")
        return "" if text.endswith(_REPLACED) else text

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


def _read(make: Callable[[Path], Any], weights: Path) -> Any:
    try:
        return make(weights)
    except Exception as exc:  # sentencepiece, tokenizers, json and the tokenizer's own code raise many kinds
        said = " ".join(str(exc).split())
        raise SettingsError(f"bundle: the tokenizer in {str(weights)!r} cannot be read: {said}") from exc


def _as_text(turn: Turn) -> TemplateTurn:
    return turn.role, turn.token_ids or turn.text


def _with_tool_turns(turns: Sequence[Turn]) -> list[TemplateTurn]:
    return [told for turn in turns for told in (turn.tool_turns or [_as_text(turn)])]
