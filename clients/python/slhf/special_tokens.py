"""Encodes rendered chats as token ids, and no content becomes structure.

A tokenizer finds its special tokens by their text, wherever that is: a draft with `<|im_end|>` in it would end its own
turn. Rendered chats are therefore encoded whole, as transformers and vLLM encode them, and only where a special token
was found in a content are they encoded again by a guarded copy of the tokenizer. In that copy the special tokens have
other names, which no text can know. The template's own ones are written by these names, so they are found in the same
places, with the same rules of stripping and the same ids; a content that spells the old names spells plain text.

The names are changed in the model's vocabulary too, because some models find special tokens without being asked: a
Unigram model takes `</s>` for its best piece, and merges of a BPE model may lead there.

This module imports no tokenizer: it takes a `tokenizers.Tokenizer`.
"""

import json
import math
import re
import secrets
from bisect import bisect_left
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

_SHORTENED = {"NoneType": 1, "NFC": 4}
"""Normalizers, each with how many characters it may turn into one; others may drop any number."""
_CONTEXT = "\ue000"  # stands for what was generated; a private-use character, which no merge knows


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered chat."""

    text: str
    turn: int | None = None
    """The number of the turn whose content it is; None: it is the template's own text."""


class SpecialTokens:
    """Encodes for one tokenizer. It is safe to use in threads, because it never changes the tokenizer's state."""

    def __init__(self, backend: Any, structural: Collection[str]) -> None:
        """`structural` are the added tokens that no content may yield. Raises ValueError where the tokenizer cannot be
        copied with other names for them."""
        self.names = tuple(structural)
        state = _whole_text(json.loads(backend.to_str()))
        make = type(backend).from_str
        self._ordinary = make(json.dumps(state))
        self._ids = {self._ordinary.token_to_id(name) for name in structural}
        nonce = secrets.token_hex(8)
        # Beginning and end stay: they decide whether a token that must be a word of its own (single_word) is one.
        self._alias = {name: f"{name[0]}{nonce}.{i}.{name[-1]}" for i, name in enumerate(structural)}
        self._guarded = make(json.dumps(_renamed(state, self._alias)))
        if any(self._ordinary.token_to_id(n) != self._guarded.token_to_id(a) for n, a in self._alias.items()):
            raise ValueError("special tokens change their ids with their names")
        longest_first = sorted(structural, key=len, reverse=True)
        self._boundary = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def encode(self, pieces: Sequence[Piece], *, follows: bool = False) -> list[int]:
        """Token ids of the pieces, one after another. `follows` says that generated tokens stand before them, so that
        they are not what tokenizers treat as the beginning of a text."""
        if follows:
            found = self._encoding([Piece(_CONTEXT), *pieces])
            ends = [end for start, end in found.offsets if start < len(_CONTEXT)]
            if max(ends, default=0) <= len(_CONTEXT):
                return list(found.ids[len(ends) :])
        return list(self._encoding(pieces).ids)

    def guarded(self, pieces: Sequence[Piece]) -> list[int]:
        """The ids that the guarded copy gives, whatever the contents hold."""
        return list(self._under_aliases(pieces).ids)

    def structure(self, ids: Sequence[int]) -> list[int]:
        """The special ones among the ids."""
        return [i for i in ids if i in self._ids]

    def are_in(self, text: str) -> bool:
        """Whether ordinary tokenisation finds special tokens in the text."""
        return bool(self.structure(_encoded(self._ordinary, text).ids))

    def count(self, text: str) -> int:
        """How many tokens the text has by itself."""
        return len(self._ordinary.encode_batch_fast([text], add_special_tokens=False)[0])

    @property
    def most_characters_per_token(self) -> float:
        """A bound: a text of n times as many characters has at least n tokens. Infinite where no bound is known."""
        model, normalizer = self._ordinary.model, type(self._ordinary.normalizer).__name__
        spells_all = type(model).__name__ == "BPE" and (model.byte_fallback or not model.unk_token)
        if not spells_all or normalizer not in _SHORTENED:
            return math.inf
        return max(map(len, self._ordinary.get_vocab())) * _SHORTENED[normalizer]

    def id_of(self, token: str) -> int | None:
        """The token's id; None where the vocabulary lacks it."""
        found: int | None = self._ordinary.token_to_id(token)
        return found

    def token_of(self, token_id: int) -> str:
        """The token's text; empty where no token has this id."""
        return self._ordinary.id_to_token(token_id) or ""

    def _encoding(self, pieces: Sequence[Piece]) -> Any:
        text = "".join(piece.text for piece in pieces)
        found = _encoded(self._ordinary, text)
        if self._meets_content(self._places(found), text, pieces):
            return self._under_aliases(pieces)
        return found

    def _places(self, encoding: Any) -> list[tuple[int, int]]:
        """Where in the text its special tokens stand, in order; white space that they strip is part of them."""
        return [encoding.token_to_chars(n) for n, token_id in enumerate(encoding.ids) if token_id in self._ids]

    def _meets_content(self, places: Sequence[tuple[int, int]], text: str, pieces: Sequence[Piece]) -> bool:
        starts, ends, end = [], [], 0
        for piece in pieces:
            start, end = end, end + len(piece.text)
            if piece.turn is not None:
                starts.append(start)
                ends.append(end)
        for start, end in places:
            stripped = text[start:end]
            last = start + len(stripped.rstrip())
            first = last - len(stripped.strip())
            nearest = bisect_left(starts, last) - 1
            if nearest >= 0 and ends[nearest] > first:
                return True
        return False

    def _under_aliases(self, pieces: Sequence[Piece], literal: frozenset[int] = frozenset()) -> Any:
        """Encode with the guarded copy. `literal` are those of the template's special tokens, counted from 0, that stay
        text, because they must be words of their own (single_word) and are parts of words here."""
        written: list[str] = []
        places: list[int] = []
        length = 0

        def write(text: str) -> None:
            nonlocal length
            written.append(text)
            length += len(text)

        for piece in pieces:
            end = 0
            for match in self._boundary.finditer(piece.text) if piece.turn is None else ():
                write(piece.text[end : match.start()])
                places.append(length)
                write(match[0] if len(places) - 1 in literal else self._alias[match[0]])
                end = match.end()
            write(piece.text[end:])
        found = _encoded(self._guarded, "".join(written))
        taken = self._places(found)
        missed = {n for n, place in enumerate(places) if not any(start <= place < end for start, end in taken)}
        return found if missed <= literal else self._under_aliases(pieces, literal | missed)


def _encoded(backend: Any, text: str) -> Any:
    """Encode as a batch of one: `encode` would keep every other thread of the process waiting until it has ended."""
    return backend.encode_batch([text], add_special_tokens=False)[0]


def added_tokens(backend: Any) -> dict[str, bool]:
    """The texts of a tokenizer's added tokens, and whether they are special."""
    return {token.content: token.special for token in backend.get_added_tokens_decoder().values()}


def _whole_text(state: dict[str, Any]) -> dict[str, Any]:
    """The state without what a saved tokenizer may do besides encoding: truncate, pad, or trim the places of tokens."""
    return state | {"truncation": None, "padding": None, "post_processor": None}


def _renamed(state: dict[str, Any], alias: dict[str, str]) -> dict[str, Any]:
    tokens = [t | {"content": alias.get(t["content"], t["content"])} for t in state["added_tokens"]]
    model: dict[str, Any] = dict(state["model"])
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {alias.get(token, token): i for token, i in vocabulary.items()}
    else:  # Unigram
        model["vocab"] = [[alias.get(token, token), score] for token, score in vocabulary]
    if "merges" in model:
        model["merges"] = [pair for pair in model["merges"] if not {*pair, "".join(pair)} & alias.keys()]
    if model.get("unk_token") in alias:
        model["unk_token"] = alias[model["unk_token"]]
    return state | {"added_tokens": tokens, "model": model}
