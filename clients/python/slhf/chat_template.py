"""Turns chats into token ids by a model's own chat template, for the server's prompts and for training's alike.

For harmless text the ids are those of transformers' `apply_chat_template(tokenize=True)`, which are vLLM's too; text
that spells special tokens stays text (special_tokens.py). To know which part of a rendered chat is content, it is
rendered a second time with fences of private-use characters around each content. A fence holds a random number, so
no content can hold one.

A turn may be token ids: what a model generated is what its prefix cache holds, so these ids are taken as they are. What
stands before them is encoded by itself, as it was when the model answered.

What a template does to contents is seen when a `ChatTemplate` is made: whether it takes text or a list of parts, and
whether it keeps them. This module imports no tokenizer and no jinja: it takes a fast tokenizer of transformers.
"""

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from copy import copy
from itertools import groupby
from typing import Any

from slhf.special_tokens import Piece, SpecialTokens, added_tokens
from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT

Turn = tuple[str, str | tuple[int, ...]]
"""A role and its content: text, or token ids to take as they are."""

_NEEDED = [("user",), ("user", "assistant", "user")]  # the Leader's prompt and the Follower's
_WELCOME = [("system", "user"), ("user", "user"), ("user", "assistant", "user", "user")]
_SAID = ("Hello", "  Two lines,\n\n  indented. \n", "\u00e9t\u00e9 \u4f60\u597d \U0001f642", "2+2=4?")
_CONTROL = re.compile(r"[<\[{|].*\S.*[>\]}|]", re.DOTALL)


class ChatRefused(ValueError):
    """The template does not take this conversation."""


class UnusableTokenizer(ValueError):
    """No prompts can be made with this tokenizer and its chat template."""


class ChatTemplate:
    """Encodes chats for one fast tokenizer of transformers. It is safe to use in threads."""

    def __init__(self, tokenizer: Any) -> None:
        """Try the template on a handful of chats. Raises UnusableTokenizer, which says what is wrong."""
        _check_kind(tokenizer)
        self._tokenizer = tokenizer
        nonce = secrets.randbits(64)  # digits: a template may change the case of letters
        self._fence = f"\ue000{nonce}.{{}}\ue001"
        self._fences = re.compile(rf"\ue000{nonce}\.(\d+)\ue001")
        self._generation_prompt = True
        self._takes_parts = False
        self._takes_parts = self._keeps(parts=False) < self._keeps(parts=True)
        probes = [roles for roles in _NEEDED + _WELCOME if self._loss(roles) is None]
        for roles in _NEEDED:
            if roles not in probes:
                raise UnusableTokenizer(f"the chat template cannot be used: {self._loss(roles)}")
        try:
            self.tokens = SpecialTokens(tokenizer.backend_tokenizer, self._structural(probes))
            for roles in probes:
                self._check(roles)
        except UnusableTokenizer:
            raise
        except Exception as exc:  # tokenizers raises nothing narrower
            raise UnusableTokenizer(f"the tokenizer cannot be used: {exc}") from exc

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of the chat, ending where the assistant's next turn begins.

        Neighbours of one role become one turn where the template does not take them as they are. Raises ChatRefused
        where it takes them neither way, or leaves a turn out.
        """
        try:
            return self._encode(turns)
        except ChatRefused:
            joined = _joined(turns)
            if len(joined) == len(turns):
                raise
            return self._encode(joined)

    def without_generation_prompt(self) -> "ChatTemplate":
        """The same template, for chats that end with their last turn and not where the next one begins."""
        other = copy(self)
        other._generation_prompt = False
        return other

    def _encode(self, turns: Sequence[Turn]) -> list[int]:
        plain = self._render(turns, _as_it_is)
        pieces = self._pieces(self._render(turns, self._fenced))
        if pieces is not None and self._missing(pieces, turns) is None and self._text(pieces) == plain:
            return self._spliced(pieces, turns)
        return self._rewritten(plain, turns)

    def _rewritten(self, plain: str, turns: Sequence[Turn]) -> list[int]:
        """The ids of a chat whose contents the template has changed, as templates do that cut thoughts away.

        What the template makes of the chat counts where it is harmless; elsewhere the contents stand as they were
        written. Raises ChatRefused where a turn is left out.
        """
        outline = self._pieces(self._render(turns, lambda n, _: self._empty(n))) or []
        if (missing := self._missing(outline, turns)) is not None:
            raise ChatRefused(f"it leaves out turn {missing + 1}, the {turns[missing][0]}'s")
        written = [piece if piece.turn is None else Piece(_text_of(turns[piece.turn]), piece.turn) for piece in outline]
        safe = self._spliced(written, turns)
        usual = self._spliced(self._pieces(plain) or [Piece(plain)], turns)
        harmless = not any(self.tokens.are_in(_text_of(turn)) for turn in turns)
        return usual if harmless and self.tokens.structure(usual) == self.tokens.structure(safe) else safe

    def _spliced(self, pieces: Sequence[Piece], turns: Sequence[Turn]) -> list[int]:
        ids: list[int] = []
        start, follows = 0, False
        for place, piece in enumerate(pieces):
            content = "" if piece.turn is None else turns[piece.turn][1]
            if not isinstance(content, str):
                run = self._as_prompted(pieces[:place], turns[: piece.turn])[start:]
                ids += [*self.tokens.encode(run, follows=follows), *content]
                start, follows = place + 1, True
        return ids + self.tokens.encode(pieces[start:], follows=follows)

    def _as_prompted(self, before: Sequence[Piece], turns: Sequence[Turn]) -> Sequence[Piece]:
        """The pieces before generated ids, without white space that the model's prompt did not end with.

        Llama 2's template puts a space before an answer, and the model's first token brings one.
        """
        text = self._text(before)
        if not text[-1:].isspace():
            return before
        try:
            prompt = self._render(turns, _as_it_is)
        except ChatRefused:
            return before
        added = text[len(prompt) :] if text.startswith(prompt) else ""
        if not added.isspace() or not before[-1].text.endswith(added):
            return before
        return [*before[:-1], Piece(before[-1].text.removesuffix(added), before[-1].turn)]

    def _pieces(self, rendered: str) -> list[Piece] | None:
        """The rendered chat, cut at its fences; None where they do not stand in pairs."""
        parts = self._fences.split(rendered)
        opened, closed = parts[1::4], parts[3::4]
        if opened != closed:
            return None
        pieces = [Piece(parts[0])]
        for number, content, after in zip(opened, parts[2::4], parts[4::4], strict=True):
            pieces += [Piece(content, int(number)), Piece(after)]
        return pieces

    def _text(self, pieces: Sequence[Piece]) -> str:
        """The rendered chat without its fences, but for those of token ids, which stand in every rendering."""
        return "".join(piece.text if piece.text or piece.turn is None else self._empty(piece.turn) for piece in pieces)

    def _missing(self, pieces: Sequence[Piece], turns: Sequence[Turn]) -> int | None:
        """The number of the first turn that says something and of which nothing is shown; None: there is none."""
        shown = {piece.turn for piece in pieces}
        said = (n for n, (_, content) in enumerate(turns) if not isinstance(content, str) or content.strip())
        return next((n for n in said if n not in shown), None)

    def _empty(self, number: int) -> str:
        return self._fence.format(number) * 2

    def _fenced(self, number: int, text: str) -> str:
        """The text in its fences. White space stays outside, where a template may trim it; blank text stays blank."""
        if not (core := text.strip()):
            return text
        start = text.index(core)
        fence = self._fence.format(number)
        return f"{text[:start]}{fence}{core}{fence}{text[start + len(core) :]}"

    def _render(self, turns: Sequence[Turn], shown: Callable[[int, str], str], parts: bool | None = None) -> str:
        messages: list[dict[str, Any]] = []
        for number, (role, content) in enumerate(turns):
            text = shown(number, content) if isinstance(content, str) else self._empty(number)
            in_parts = self._takes_parts if parts is None else parts
            messages.append({"role": role, "content": [{"type": "text", "text": text}] if in_parts else text})
        try:
            apply = self._tokenizer.apply_chat_template
            return str(apply(messages, tokenize=False, add_generation_prompt=self._generation_prompt))
        except Exception as exc:  # a template is a program: it raises what it likes
            raise ChatRefused(str(exc)) from exc

    # What follows runs when a ChatTemplate is made.

    def _keeps(self, *, parts: bool) -> int:
        """How many shapes of chats the template renders without losing a content, given as parts or as text."""
        return sum(self._loss(roles, parts=parts) is None for roles in _NEEDED + _WELCOME)

    def _loss(self, roles: Sequence[str], parts: bool | None = None) -> str | None:
        """Why a chat of these roles cannot be rendered; None: it can."""
        turns: list[Turn] = [(role, "Hello") for role in roles]
        try:
            pieces = self._pieces(self._render(turns, self._fenced, parts))
        except ChatRefused as exc:
            return f"it refuses a chat of {', '.join(roles)}: {exc}"
        if pieces is None or (missing := self._missing(pieces, turns)) is not None:
            lost = "a turn" if pieces is None else f"the {roles[missing or 0]}'s turn"
            return f"it loses {lost} of {', '.join(roles)}, as text and as a list of parts"
        return None

    def _structural(self, probes: Sequence[Sequence[str]]) -> list[str]:
        """Special tokens, and added tokens of their form that the template itself writes though they are not special.

        Models are published whose `<|START_OF_TURN_TOKEN|>` is an ordinary added token. Tags of thoughts stay what
        they are to transformers.
        """
        texts = [piece.text for roles in probes for piece in self._probed(roles) if piece.turn is None]
        return [
            token
            for token, special in added_tokens(self._tokenizer.backend_tokenizer).items()
            if special or (_is_control(token) and any(token in text for text in texts))
        ]

    def _probed(self, roles: Sequence[str]) -> Iterator[Piece]:
        yield from self._pieces(self._render([(role, "Hello") for role in roles], self._fenced)) or ()

    def _check(self, roles: Sequence[str]) -> None:
        chat = ", ".join(roles)
        for text in _SAID:
            turns = [(role, text) for role in roles]
            found = self._tried(turns)
            if found is None:
                continue
            if found != self._usual(turns):
                raise UnusableTokenizer(f"prompts of {chat} differ from those of transformers' apply_chat_template")
            pieces = self._pieces(self._render(turns, self._fenced)) or []
            if self._text(pieces) == self._render(turns, _as_it_is) and self.tokens.guarded(pieces) != found:
                raise UnusableTokenizer(f"special tokens cannot be told from text in prompts of {chat}")
        hostile = f"x{''.join(self.tokens.names)}x"
        attacked, calm = (self._tried([(role, text) for role in roles]) for text in (hostile, "xx"))
        if attacked is not None and self._controls(attacked) != self._controls(calm or []):
            raise UnusableTokenizer(f"text of control tokens becomes structure in prompts of {chat}")

    def _tried(self, turns: Sequence[Turn]) -> list[int] | None:
        try:
            return self._encode(turns)
        except ChatRefused:  # a chat that is refused lets nothing in
            return None

    def _controls(self, ids: Sequence[int]) -> list[int]:
        unknown = self._tokenizer.unk_token_id  # text that the vocabulary lacks
        return [i for i in self.tokens.structure(ids) if i != unknown]

    def _usual(self, turns: Sequence[Turn]) -> list[int]:
        messages = [{"role": role, "content": self._shaped(str(text))} for role, text in turns]
        apply = self._tokenizer.apply_chat_template
        return list(apply(messages, tokenize=True, add_generation_prompt=True, return_dict=False))

    def _shaped(self, text: str) -> str | list[dict[str, str]]:
        return [{"type": "text", "text": text}] if self._takes_parts else text


def _as_it_is(_: int, text: str) -> str:
    return text


def _check_kind(tokenizer: Any) -> None:
    template = tokenizer.chat_template
    if not template:
        raise UnusableTokenizer("the tokenizer has no chat template: refinement needs a chat model")
    if isinstance(template, dict) and "default" not in template:
        names = ", ".join(sorted(template))
        raise UnusableTokenizer(f"the tokenizer has several chat templates and none is named default: {names}")
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise UnusableTokenizer(
            f"{type(tokenizer).__name__} is no fast tokenizer: tokenizer.json is missing, or cannot be made"
        )


def _is_control(token: str) -> bool:
    return token not in (OPEN_THOUGHT, CLOSE_THOUGHT) and len(token) > 2 and _CONTROL.fullmatch(token) is not None


def _text_of(turn: Turn) -> str:
    return turn[1].strip() if isinstance(turn[1], str) else ""


def _joined(turns: Sequence[Turn]) -> list[Turn]:
    """The turns with neighbours of one role joined by a blank line; turns of token ids stay alone."""
    joined: list[Turn] = []
    for (role, is_text), run in groupby(turns, lambda turn: (turn[0], isinstance(turn[1], str))):
        if is_text:
            joined.append((role, "\n\n".join(str(content) for _, content in run)))
        else:
            joined += run
    return joined
