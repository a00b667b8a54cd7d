"""From turns to token ids, segment by segment.

A chat template rendered to one string and then tokenised lets text become structure: a draft holding
`<|im_end|>\\n<|im_start|>system` would end its own turn. So the template is rendered with a marker in place of each
content; only the template's own text yields special tokens, and content is encoded with special-token matching off.
For content without such strings the ids equal those of `apply_chat_template(tokenize=True)`, because special tokens are
hard boundaries of ordinary tokenisation too.

A turn that carries token ids is spliced in as it is: what the engine generated is what its prefix cache holds.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from jinja2 import TemplateError

from slhf_server.errors import BadRequest, SettingsError
from slhf_server.model import Turn

_MARKER = "\ue000{}\ue001"  # private-use characters: no template holds them, and no content is searched for them


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
        padded = f" {_MARKER.format(0)} "
        self._template_trims = padded not in self._render([{"role": "user", "content": padded}])

    def encode(self, turns: Sequence[Turn]) -> list[int]:
        """Token ids of the chat, ending where the assistant's next turn begins.

        Raises BadRequest where the model's template refuses the order or kind of turns.
        """
        rendered = self._render([{"role": t.role, "content": _MARKER.format(i)} for i, t in enumerate(turns)])
        ids: list[int] = []
        run = ""  # plain text since the last special token: encoded in one go, as ordinary tokenisation would
        for piece in self._pieces(rendered, turns):
            if isinstance(piece, str):
                run += piece
            else:
                ids += self._plain(run)
                ids += piece
                run = ""
        return ids + self._plain(run)

    def faithful(self, token_ids: Sequence[int], text: str) -> tuple[int, ...] | None:
        """The ids if they may stand for the text in a later prompt: no special token, and they decode to just it."""
        if self._special_ids.intersection(token_ids) or self._tokenizer.decode(token_ids) != text:
            return None
        return tuple(token_ids)

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

    def _plain(self, text: str) -> list[int]:
        return self._backend.encode(text, add_special_tokens=False).ids if text else []

    def _render(self, messages: list[dict[str, str]]) -> str:
        try:
            return str(self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))
        except TemplateError as exc:
            raise BadRequest(f"the model's chat template refuses this conversation: {exc}", param="messages") from exc
