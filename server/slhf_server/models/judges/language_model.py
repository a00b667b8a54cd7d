"""A language model as a judge: it is asked for one letter, in both orders, because models favour a place.

p = (p(new first) + 1 - p(old first)) / 2, from the log-probabilities of the letters where the model gives them, else
from the letter itself. Where the orders name one place and not one text, it abstains.
"""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

from slhf_server.models.base import ChatModel, Chunk, SamplingParams, Turn
from slhf_server.models.judge import Verdict
from slhf_server.models.judges.letters import probability_of_a, question

_LIKELIEST = 20
"""As many as OpenAI and vLLM give for one place."""


@dataclass(frozen=True, slots=True)
class _Reply:
    p: float | None
    last: Chunk
    completion_tokens: int


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
        new_first, old_first = await self._both(asked, request_id, priority)
        p, consistent = _together(new_first.p, old_first.p)
        replies = (new_first, old_first)
        return Verdict(
            p,
            consistent,
            prompt_tokens=sum(reply.last.prompt_tokens for reply in replies),
            cached_tokens=sum(reply.last.cached_tokens for reply in replies),
            completion_tokens=sum(reply.completion_tokens for reply in replies),
        )

    async def _both(self, asked: tuple[str, str], request_id: str, priority: int) -> tuple[_Reply, _Reply]:
        """The replies to both questions, asked at once. Where one fails, the other ends with it."""
        replies = [self._reply(text, f"{request_id}-{at}", priority) for at, text in enumerate(asked)]
        tasks = [asyncio.create_task(reply) for reply in replies]
        try:
            first, second = await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return first, second

    async def _reply(self, text: str, request_id: str, priority: int) -> _Reply:
        sampling = SamplingParams(
            temperature=0.0,
            max_tokens=self._max_tokens,
            logprobs=_LIKELIEST,
            priority=priority,
            dispensable=frozenset({"temperature", "logprobs"}),
            # Both orders share what the cache holds of the conversation, and no other request finds it there.
            cache_salt=request_id.partition("-")[0],
            template_options=self._template_options,
        )
        turns = [Turn("user", text)]
        async with aclosing(self._model.stream(turns, sampling, request_id=request_id, deltas=False)) as stream:
            chunks = [chunk async for chunk in stream]
        said = "".join(chunk.text for chunk in chunks)
        logprobs = [token for chunk in chunks for token in chunk.logprobs]
        tokens = sum(chunk.completion_tokens for chunk in chunks)
        return _Reply(probability_of_a(said, logprobs), chunks[-1], tokens)


def _together(new_first: float | None, old_first: float | None) -> tuple[float | None, bool | None]:
    """p and `consistent`, by how probable A is in either order."""
    if new_first is None or old_first is None:
        return None, None
    consistent = (new_first - 0.5) * (0.5 - old_first) >= 0
    return ((new_first + 1 - old_first) / 2 if consistent else None), consistent
