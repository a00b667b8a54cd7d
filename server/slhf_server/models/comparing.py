"""A Follower that compares a draft with answers of its own, which it has written before it sees the draft.

Its model writes them as the Leader, all at once, because a batch takes less time than one after the other. Under the
draft they would not be its own: a model beside a draft, or beside an answer of its own, copies it. They stand in the
Follower's turn (slhf/turns.py), where nobody but the Follower reads them: they are thoughts, and are counted as such.
"""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

from slhf import Bundle, OwnAnswers
from slhf.turns import with_own_answers
from slhf_server.errors import ContextLengthExceeded
from slhf_server.models.base import ChatModel, Chunk, SamplingParams, Turn
from slhf_server.models.reasoning import is_blank, strip_reasoning

_SEEDS = 2**63


def comparing(leader: ChatModel, follower: ChatModel, bundle: Bundle) -> ChatModel:
    """The Follower as the bundle wants it: one that compares, or the model itself."""
    return follower if bundle.own_answers is None else ComparingFollower(leader, follower, bundle.own_answers)


@dataclass(frozen=True, slots=True)
class ComparingFollower:
    """Implements `ChatModel` for turns that end with a draft and the Follower's turn."""

    leader: ChatModel
    follower: ChatModel
    how: OwnAnswers

    @property
    def name(self) -> str:
        return self.follower.name

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        *conversation, draft, asking = turns
        written = await self._written(conversation, sampling, request_id)
        spent = _Spent(written)
        yield Chunk("", spent.completion, spent.prompt, spent.cached)
        own = [text for chunk in written if (text := _usable(chunk))]
        left = None if sampling.max_total_tokens is None else sampling.max_total_tokens - spent.total
        sampling = replace(sampling, max_total_tokens=left)
        while True:
            turn = replace(asking, text=with_own_answers(asking.text, own))
            chunks = self.follower.stream([*conversation, draft, turn], sampling, request_id=request_id, deltas=deltas)
            try:
                async with aclosing(chunks):
                    async for chunk in chunks:
                        yield spent.before(chunk)
                return
            except ContextLengthExceeded:  # which comes before the first token
                if not own:
                    raise
                own.pop()

    async def _written(self, turns: Sequence[Turn], sampling: SamplingParams, request_id: str) -> list[Chunk]:
        """The own answers, each as one chunk. Where one fails, the others end with it."""
        tasks = [
            asyncio.create_task(self._answer(turns, self._sampling(sampling, number), f"{request_id}-own-{number}"))
            for number in range(self.how.count)
        ]
        try:
            return await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _answer(self, turns: Sequence[Turn], sampling: SamplingParams, request_id: str) -> Chunk:
        async with aclosing(self.leader.stream(turns, sampling, request_id=request_id, deltas=False)) as stream:
            chunks = [chunk async for chunk in stream]
        text, tokens = "".join(chunk.text for chunk in chunks), sum(chunk.completion_tokens for chunk in chunks)
        return replace(chunks[-1], text=text, completion_tokens=tokens)

    def _sampling(self, asked: SamplingParams, number: int) -> SamplingParams:
        """As the bundle samples, whatever the request says: without temperature all of them would be the same one."""
        seed = 0 if asked.temperature == 0 and asked.seed is None else asked.seed  # temperature 0 stays deterministic
        budget = asked.max_total_tokens
        return SamplingParams(
            max_tokens=min(self.how.max_tokens, asked.max_tokens or self.how.max_tokens),
            max_total_tokens=None if budget is None else budget // (self.how.count + 1),
            stop=asked.stop,
            seed=None if seed is None else (seed + 1 + number) % _SEEDS,
            structure=asked.structure,
            cache_salt=asked.cache_salt,
        )


class _Spent:
    """What the own answers have cost, as a part of the round that they are written for."""

    def __init__(self, written: Sequence[Chunk]) -> None:
        self.completion = sum(chunk.completion_tokens for chunk in written)
        self.prompt = sum(chunk.prompt_tokens for chunk in written)
        self.cached = sum(chunk.cached_tokens for chunk in written)
        self._accepted = sum(chunk.accepted_tokens for chunk in written)
        self._rejected = sum(chunk.rejected_tokens for chunk in written)

    @property
    def total(self) -> int:
        return self.completion + self.prompt

    def before(self, chunk: Chunk) -> Chunk:
        """The Follower's own chunk, with the tokens that came before it. A round's last chunk tells what it thought."""
        chunk = replace(
            chunk,
            prompt_tokens=chunk.prompt_tokens + self.prompt,
            cached_tokens=chunk.cached_tokens + self.cached,
        )
        if chunk.finish_reason is None:
            return chunk
        return replace(
            chunk,
            reasoning_tokens=chunk.reasoning_tokens + self.completion,
            accepted_tokens=chunk.accepted_tokens + self._accepted,
            rejected_tokens=chunk.rejected_tokens + self._rejected,
        )


def _usable(answer: Chunk) -> str | None:
    """The text of an answer that came to its end."""
    text = strip_reasoning(answer.text).strip()
    return None if answer.finish_reason != "stop" or is_blank(text) else text
