"""The interface that every judge implements: which of two texts is the better answer to a conversation.

A judge abstains rather than invents: where its two orders contradict each other, or it gives no readable answer, its
verdict has no probability. What a verdict costs is told with it, because somebody pays for it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

from slhf_server.models.base import Chunk, Turn

_CHARACTERS = 4
"""About as many have a token; a guess, because nobody here knows the judge's tokenizer."""


def about_tokens(*texts: str) -> int:
    return sum(map(len, texts)) // _CHARACTERS


def salt_of(request_id: str) -> str:
    """What a comparison's questions share in the prefix cache, where no other request finds them."""
    return request_id.partition("-")[0]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a judge says of a new text beside an old one, asked in both orders where the judge sees an order."""

    p: float | None
    """The probability, from 0 to 1, that the new text is the better answer; None: the judge abstains."""
    consistent: bool | None = None
    """Whether both orders agree on which is better; None: the judge sees no order, or did not answer."""
    prompt_tokens: int = 0
    """Of all its questions together, as the next two."""
    cached_tokens: int = 0
    completion_tokens: int = 0

    @classmethod
    def of(cls, p: float | None, consistent: bool | None, completions: Sequence[Chunk]) -> Self:
        """A verdict that these whole completions have cost."""
        return cls(
            p,
            consistent,
            prompt_tokens=sum(one.prompt_tokens for one in completions),
            cached_tokens=sum(one.cached_tokens for one in completions),
            completion_tokens=sum(one.completion_tokens for one in completions),
        )


class Judge(Protocol):
    """Who compares two texts."""

    @property
    def name(self) -> str:
        """Its name in the settings, as answers and metrics report it."""

    async def compare(
        self, turns: Sequence[Turn], old: str, new: str, *, request_id: str, priority: int = 0
    ) -> Verdict:
        """Whether `new` is a better answer to `turns` (which end with a user's) than `old`. `priority`: vLLM's.

        Raises as `ChatModel.stream` does, where the judge cannot be asked; whoever asks goes on without a verdict.
        """

    def tokens(self, turns: Sequence[Turn], old: str, new: str) -> int:
        """About how many a comparison of these takes, prompts included, that its verdict would tell."""
