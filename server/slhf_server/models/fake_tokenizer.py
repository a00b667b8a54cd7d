"""The fake engine's tokenizer: a word is a token, a space in front of it included, and ids are given in order."""

import re
from collections.abc import Sequence

from slhf_server.errors import ContextLengthExceeded
from slhf_server.models.base import Turn

_BEGINNING = "<s>"


class FakeTokenizer:
    """Implements `Tokenizer`. Its chat template writes nothing but the turns' texts."""

    def __init__(self) -> None:
        self._ids = {_BEGINNING: 0}

    def chat_ids(
        self, turns: Sequence[Turn], most: int, *, generation_prompt: bool = True, special_tokens: bool = False
    ) -> list[int]:
        ids = [token_id for turn in turns for token_id in self.text_ids(turn.text, most, special_tokens=False)]
        return [0, *ids] if special_tokens else ids

    def text_ids(self, text: str, most: int, *, special_tokens: bool) -> list[int]:
        words = re.findall(r"\s*\S+", text)
        if len(words) > most:
            raise ContextLengthExceeded(len(words), most)
        ids = [self._ids.setdefault(word, len(self._ids)) for word in words]
        return [0, *ids] if special_tokens else ids

    def tokens(self, ids: Sequence[int]) -> list[str]:
        words = list(self._ids)
        return [words[token_id] if token_id < len(words) else "" for token_id in ids]

    def text(self, ids: Sequence[int]) -> str:
        return "".join(self.tokens(ids))
