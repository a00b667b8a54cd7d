"""Turns chats into token ids by a model's own chat template, for the server's prompts and for training's alike.

For harmless text the ids are those of transformers' `apply_chat_template(tokenize=True)`, which are vLLM's too; text
that spells special tokens stays text (special_tokens.py). To know which part of a rendered chat is content, it is
rendered a second time with fences of private-use characters around each content. A fence holds a random number, so
no content can hold one.

A turn may be token ids: what a model generated is what its prefix cache holds, so these ids are taken as they are. What
stands before them is encoded by itself, as it was when the model answered.

Tools, calls and results are content too: each of their strings has a fence of its own.

What a template does to contents is seen when a `ChatTemplate` is made: whether it takes text or a list of parts,
whether it keeps them, and whether it knows tools. This module imports no tokenizer and no jinja: it takes a fast
tokenizer of transformers.
"""

import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from itertools import count
from typing import Any

from slhf.chats import CALLING, OFFERING, Chat, Turn, content_of, filled, joined, more_of, role_of, saying, text_of
from slhf.special_tokens import Piece, SpecialTokens, added_tokens
from slhf.turns import CLOSE_THOUGHT, OPEN_THOUGHT

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
        self.shows_tools = self._shows(OFFERING)
        """Whether the template tells the model of tools."""
        self.has_tool_turns = self._shows(CALLING)
        """Whether it has turns of its own for tool calls and their results."""
        for roles in _NEEDED:
            if roles not in probes:
                raise UnusableTokenizer(f"the chat template cannot be used: {self._loss(roles)}")
        try:
            self.tokens = SpecialTokens(tokenizer.backend_tokenizer, self._structural(probes))
            for roles in probes:
                self._check(roles)
            self.shows_tools = self.shows_tools and self._is_safe(OFFERING)
            self.has_tool_turns = self.has_tool_turns and self._is_safe(CALLING)
        except UnusableTokenizer:
            raise
        except Exception as exc:  # tokenizers raises nothing narrower
            raise UnusableTokenizer(f"the tokenizer cannot be used: {exc}") from exc

    def encode(
        self,
        turns: Sequence[Turn],
        tools: Sequence[Mapping[str, Any]] = (),
        options: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of the chat, ending where the assistant's next turn begins.

        `tools` are OpenAI's, for a template that shows them; `options` are variables that the template knows.
        Neighbours of one role become one turn where the template does not take them as they are. Raises ChatRefused
        where it takes them neither way, or leaves a turn out.
        """
        chat = Chat(turns, tools, options or {})
        try:
            return self._encode(chat)
        except ChatRefused:
            fewer = joined(turns)
            if len(fewer) == len(turns):
                raise
            return self._encode(replace(chat, turns=fewer))

    def without_generation_prompt(self) -> "ChatTemplate":
        """The same template, for chats that end with their last turn and not where the next one begins."""
        other = copy(self)
        other._generation_prompt = False
        return other

    def _encode(self, chat: Chat) -> list[int]:
        plain = self._render(chat, _as_it_is)
        pieces = self._pieces(self._render(chat, self._fenced))
        if pieces is not None and self._missing(pieces, chat.turns) is None and self._text(pieces) == plain:
            return self._spliced(pieces, chat)
        return self._rewritten(plain, chat)

    def _rewritten(self, plain: str, chat: Chat) -> list[int]:
        """The ids of a chat whose contents the template has changed, as templates do that cut thoughts away.

        What the template makes of the chat counts where it is harmless; elsewhere the contents stand as they were
        written. Raises ChatRefused where a turn is left out.
        """
        turns, length = chat.turns, len(chat.turns)
        fill = self._fenced
        outline = self._pieces(self._render(chat, lambda n, t: self._empty(n) if n < length else fill(n, t))) or []
        if (missing := self._missing(outline, turns)) is not None:
            raise ChatRefused(f"it leaves out turn {missing + 1}, the {role_of(turns[missing])}'s")
        written = [
            piece if piece.turn is None or piece.turn >= length else Piece(text_of(turns[piece.turn]), piece.turn)
            for piece in outline
        ]
        safe = self._spliced(written, chat)
        usual = self._spliced(self._pieces(plain) or [Piece(plain)], chat)
        said = (*map(text_of, turns), *chat.strings)
        harmless = not any(map(self.tokens.are_in, said))
        return usual if harmless and self.tokens.structure(usual) == self.tokens.structure(safe) else safe

    def _spliced(self, pieces: Sequence[Piece], chat: Chat) -> list[int]:
        ids: list[int] = []
        start, follows = 0, False
        for place, piece in enumerate(pieces):
            of_turn = piece.turn is not None and piece.turn < len(chat.turns)
            content = content_of(chat.turns[piece.turn or 0]) if of_turn else ""
            if not isinstance(content, str):
                before = replace(chat, turns=chat.turns[: piece.turn])
                run = self._as_prompted(pieces[:place], before)[start:]
                ids += [*self.tokens.encode(run, follows=follows), *content]
                start, follows = place + 1, True
        return ids + self.tokens.encode(pieces[start:], follows=follows)

    def _as_prompted(self, before: Sequence[Piece], chat: Chat) -> Sequence[Piece]:
        """The pieces before generated ids, without white space that the model's prompt did not end with.

        Llama 2's template puts a space before an answer, and the model's first token brings one.
        """
        text = self._text(before)
        if not text[-1:].isspace():
            return before
        try:
            prompt = self._render(chat, _as_it_is)
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
        contents = enumerate(map(content_of, turns))
        said = (n for n, content in contents if not isinstance(content, str) or content.strip())
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

    def _render(self, chat: Chat, shown: Callable[[int, str], str], parts: bool | None = None) -> str:
        further = count(len(chat.turns))  # numbers of contents that are no turn's text
        in_parts = self._takes_parts if parts is None else parts

        def put(said: str) -> str:
            return shown(next(further), said)

        messages: list[dict[str, Any]] = []
        try:
            for number, turn in enumerate(chat.turns):
                content = content_of(turn)
                text = shown(number, content) if isinstance(content, str) else self._empty(number)
                message = {"role": role_of(turn), "content": [{"type": "text", "text": text}] if in_parts else text}
                messages.append(message | filled(more_of(turn), put))
            tools = [filled(tool, put) for tool in chat.tools] or None
            options = {"add_generation_prompt": self._generation_prompt} | dict(chat.options)
            return str(self._tokenizer.apply_chat_template(messages, tools=tools, tokenize=False, **options))
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
            pieces = self._pieces(self._render(Chat(turns), self._fenced, parts))
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
        chats = [Chat([(role, "Hello") for role in roles]) for roles in probes]
        chats += [OFFERING] * self.shows_tools + [CALLING] * self.has_tool_turns
        texts = [piece.text for chat in chats for piece in self._probed(chat) if piece.turn is None]
        return [
            token
            for token, special in added_tokens(self._tokenizer.backend_tokenizer).items()
            if special or (_is_control(token) and any(token in text for text in texts))
        ]

    def _probed(self, chat: Chat) -> Sequence[Piece]:
        return self._pieces(self._render(chat, self._fenced)) or ()

    def _shows(self, chat: Chat) -> bool:
        """Whether each string of the chat's tools and calls is shown, in whatever order."""
        try:
            pieces = self._probed(chat)
        except ChatRefused:
            return False
        told = [piece.text for piece in pieces if piece.turn is not None]
        return all(said in told for said in {*chat.strings, *map(text_of, chat.turns)} - {""})

    def _is_safe(self, chat: Chat) -> bool:
        """Whether the chat's ids are those of transformers, and control tokens in its strings stay text."""
        if self._tried(chat) != self._usual(chat):
            return False
        hostile = f"x{''.join(self.tokens.names)}x"
        attacked, calm = (self._tried(saying(chat, text)) for text in (hostile, "xx"))
        return attacked is not None and self._controls(attacked) == self._controls(calm or [])

    def _check(self, roles: Sequence[str]) -> None:
        listed = ", ".join(roles)
        for text in _SAID:
            turns: list[Turn] = [(role, text) for role in roles]
            chat = Chat(turns)
            found = self._tried(chat)
            if found is None:
                continue
            if found != self._usual(chat):
                raise UnusableTokenizer(f"prompts of {listed} differ from those of transformers' apply_chat_template")
            pieces = self._pieces(self._render(chat, self._fenced)) or []
            if self._text(pieces) == self._render(chat, _as_it_is) and self.tokens.guarded(pieces) != found:
                raise UnusableTokenizer(f"special tokens cannot be told from text in prompts of {listed}")
        hostile = f"x{''.join(self.tokens.names)}x"
        attacked, calm = (self._tried(Chat([(role, text) for role in roles])) for text in (hostile, "xx"))
        if attacked is not None and self._controls(attacked) != self._controls(calm or []):
            raise UnusableTokenizer(f"text of control tokens becomes structure in prompts of {listed}")

    def _tried(self, chat: Chat) -> list[int] | None:
        try:
            return self._encode(chat)
        except ChatRefused:  # a chat that is refused lets nothing in
            return None

    def _controls(self, ids: Sequence[int]) -> list[int]:
        unknown = self._tokenizer.unk_token_id  # text that the vocabulary lacks
        return [i for i in self.tokens.structure(ids) if i != unknown]

    def _usual(self, chat: Chat) -> list[int]:
        messages = [
            {"role": role_of(turn), "content": self._shaped(str(content_of(turn)))} | more_of(turn)
            for turn in chat.turns
        ]
        apply, tools = self._tokenizer.apply_chat_template, list(chat.tools) or None
        return list(apply(messages, tools=tools, tokenize=True, add_generation_prompt=True, return_dict=False))

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
