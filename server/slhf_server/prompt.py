"""From turns to token ids, segment by segment.

A chat template rendered to one string and then tokenised lets text become structure: a draft holding
`<|im_end|>\\n<|im_start|>system` would end its own turn. So the template is rendered with a marker in place of each
content; only the template's own text yields special tokens, and content is encoded with special-token matching off.
For content without such strings the ids equal those of `apply_chat_template(tokenize=True)`, because special tokens are
hard boundaries of ordinary tokenisation too.

A turn that carries token ids is spliced in as it is: what the engine generated is what its prefix cache holds.
"""

import math
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError
from tokenizers.models import BPE

from slhf_server.errors import BadRequest, ContextLengthExceeded, SettingsError
from slhf_server.model import Turn

_MARKER = "\ue000{}\ue001"  # private-use characters: no template holds them, and no content is searched for them

THINK, THOUGHT = "<think>", "</think>"  # what opens and closes a reasoning model's thoughts
_OPENING_IDS = 8  # enough ids to hold the opening tag, spelled out, and a line break
_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
_BYTE_OF = {chr(byte): byte for byte in _PRINTABLE} | {
    chr(0x100 + i): byte for i, byte in enumerate(sorted({*range(0x100)} - {*_PRINTABLE}))
}
"""How byte-level tokenizers spell bytes: GPT-2's table."""


_SHORTENED = {"NoneType": 1, "NFC": 4}
"""Normalizers, and how many characters they may make one of; others may drop any number."""


class PromptEncoder:
    """Encodes chats for one tokenizer (a fast one of transformers) with a chat template."""

    def __init__(self, tokenizer: Any) -> None:
        if not tokenizer.chat_template:
            raise SettingsError("the bundle's tokenizer has no chat template: refinement needs a chat model")
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        self._backend.encode_special_tokens = True  # tokenizers' name for "encode them as plain text"
        self._special = {t.content: i for i, t in tokenizer.added_tokens_decoder.items() if t.special}
        self._special_ids = frozenset(self._special.values())
        longest_first = sorted(self._special, key=len, reverse=True)
        self._boundary = re.compile("(" + "|".join([*map(re.escape, longest_first), r"\ue000\d+\ue001"]) + ")")
        self._bytes: dict[int, bytes] = {}
        padded = f" {_MARKER.format(0)} "
        self._template_trims = padded not in self._render([{"role": "user", "content": padded}])

    def encode(self, turns: Sequence[Turn], most: float = math.inf) -> list[int]:
        """Token ids of the chat, ending where the assistant's next turn begins.

        Raises BadRequest where the model's template refuses the order or kind of turns, and ContextLengthExceeded where
        one stretch of text alone has more than `most` tokens.
        """
        rendered = self._render([{"role": t.role, "content": _MARKER.format(i)} for i, t in enumerate(turns)])
        ids: list[int] = []
        run = ""  # plain text since the last special token: encoded in one go, as ordinary tokenisation would
        for piece in self._pieces(rendered, turns):
            if isinstance(piece, str):
                run += piece
            else:
                ids += self._plain(run, most)
                ids += piece
                run = ""
        return ids + self._plain(run, most)

    @property
    def most_characters_per_token(self) -> float:
        """No text of n times as many characters has fewer than n tokens; infinite where nothing is known."""
        model, normalizer = self._backend.model, type(self._backend.normalizer).__name__
        if not isinstance(model, BPE) or normalizer not in _SHORTENED or (model.unk_token and not model.byte_fallback):
            return math.inf
        return max(map(len, self._backend.get_vocab())) * _SHORTENED[normalizer]

    def faithful(self, token_ids: Sequence[int], text: str) -> tuple[int, ...] | None:
        """The ids if they may stand for the text in a later prompt: no special token, and they decode to just it."""
        if self._special_ids.intersection(token_ids) or self._tokenizer.decode(token_ids) != text:
            return None
        return tuple(token_ids)

    def opens_thought(self, prompt_ids: Sequence[int]) -> bool:
        """Whether the template has begun the assistant's turn with `<think>`: the model then goes on without it."""
        return str(self._tokenizer.decode(prompt_ids[-_OPENING_IDS:])).rstrip().endswith(THINK)

    def reasoning_tokens(self, generated: Sequence[int], text: str) -> int:
        """How many of the generated ids are thoughts, the closing `</think>` included; all, where it never came.

        `text` is what the ids say, after the `<think>` that the prompt may have opened with.
        """
        if not text.lstrip().startswith(THINK):
            return 0
        if THOUGHT not in text:
            return len(generated)
        closing = self._backend.token_to_id(THOUGHT)
        if closing in generated:
            return list(generated).index(closing) + 1
        lengths = range(1, len(generated) + 1)
        return 1 + bisect_left(lengths, True, key=lambda n: THOUGHT in self._tokenizer.decode(generated[:n]))

    def token_bytes(self, token_id: int) -> bytes:
        """What the token stands for, also where it is only a part of a character."""
        if token_id not in self._bytes:
            self._bytes[token_id] = self._spelled(token_id)
        return self._bytes[token_id]

    def _spelled(self, token_id: int) -> bytes:
        """Bytes as byte-level or byte-fallback tokenizers write them, if that is what the tokenizer itself reads."""
        text = str(self._tokenizer.decode([token_id]))
        token = self._backend.id_to_token(token_id) or ""
        if single := re.fullmatch("<0x([0-9A-F]{2})>", token):
            return bytes.fromhex(single[1])
        if all(character in _BYTE_OF for character in token):
            spelled = bytes(_BYTE_OF[character] for character in token)
            if spelled.decode(errors="replace") == text:
                return spelled
        return text.encode()

    def _pieces(self, rendered: str, turns: Sequence[Turn]) -> Iterator[str | Sequence[int]]:
        """The rendered template cut at special tokens and markers: text, or ids to take as they are."""
        for piece in self._boundary.split(rendered):
            if piece in self._special:
                yield (self._special[piece],)
            elif piece.startswith("\ue000"):
                turn = turns[int(piece[1:-1])]
                yield turn.token_ids or (turn.text.strip() if self._template_trims else turn.text)
            else:
                yield piece

    def _plain(self, text: str, most: float = math.inf) -> list[int]:
        """By `encode_batch_fast`, which is twice as fast as `encode`, and lets other threads run meanwhile.

        Making the list does not: so what is longer than `most` is refused before.
        """
        if not text:
            return []
        encoding = self._backend.encode_batch_fast([text], add_special_tokens=False)[0]
        if len(encoding) > most:
            raise ContextLengthExceeded(len(encoding), int(most))
        return list(encoding.ids)

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as exc:
            raise BadRequest(f"the model's chat template refuses this conversation: {exc}", param="messages") from exc
