"""A language model as a judge: it is asked for one letter, in both orders, because models favour a place.

p = (p(new first) + 1 - p(old first)) / 2, from the log-probabilities of the letters where the model gives them, else
from the letter itself. Where the orders name one place and not one text, it abstains.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from slhf_server.models.base import ChatModel, Chunk, SamplingParams, Turn
from slhf_server.models.judge import Verdict, about_tokens, salt_of
from slhf_server.models.judges.letters import probability_of_a, question
from slhf_server.models.whole import at_once, whole

_LIKELIEST = 20
"""As many as OpenAI and vLLM give for one place."""


class LanguageModelJudge:
    """Implements `Judge` by any `ChatModel`."""

    def __init__(
        self, name: str, model: ChatModel, *, max_tokens: int, template_options: Mapping[str, Any] | None = None
    ) -> None:
        """`max_tokens`: of a reply. `template_options`: variables of the chat template, for a model of ours."""
        self.name = name
        self._model = model
        self._max_tokens = max_tokens
        self._template_options = template_options or {}

    async def compare(
        self, turns: Sequence[Turn], old: str, new: str, *, request_id: str, priority: int = 0
    ) -> Verdict:
        asked = question(turns, new, old), question(turns, old, new)
        replies = await at_once(self._reply(text, f"{request_id}-{at}", priority) for at, text in enumerate(asked))
        p, consistent = _together(*(probability_of_a(reply.text, reply.logprobs) for reply in replies))
        return Verdict.of(p, consistent, replies)

    def tokens(self, turns: Sequence[Turn], old: str, new: str) -> int:
        return 2 * about_tokens(old, new, *(turn.text for turn in turns))

    async def _reply(self, text: str, request_id: str, priority: int) -> Chunk:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=self._max_tokens,
            logprobs=_LIKELIEST,
            priority=priority,
            dispensable=frozenset({"temperature", "logprobs"}),
            cache_salt=salt_of(request_id),
            template_options=self._template_options,
        )
        return await whole(self._model, [Turn("user", text)], sampling, request_id)


def _together(new_first: float | None, old_first: float | None) -> tuple[float | None, bool | None]:
    """p and `consistent`, by how probable A is in either order."""
    if new_first is None or old_first is None:
        return None, None
    consistent = (new_first - 0.5) * (0.5 - old_first) >= 0
    return ((new_first + 1 - old_first) / 2 if consistent else None), consistent
