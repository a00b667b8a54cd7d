"""Completions that are wanted whole, one or several at once: own answers, and what judges are asked; what they cost."""

import asyncio
import itertools
from collections.abc import Coroutine, Iterable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from slhf.readings import has_readings
from slhf_server.models.base import ChatModel, Chunk, SamplingParams, Turn
from slhf_server.models.reasoning import is_blank, strip_reasoning


async def whole(model: ChatModel, turns: Sequence[Turn], sampling: SamplingParams, request_id: str) -> Chunk:
    """A completion as one chunk. Raises as `ChatModel.stream` does."""
    async with aclosing(model.stream(turns, sampling, request_id=request_id, deltas=False)) as stream:
        return joined([chunk async for chunk in stream])


def joined(chunks: Sequence[Chunk]) -> Chunk:
    """All chunks of a completion as one."""
    text, tokens = "".join(chunk.text for chunk in chunks), sum(chunk.completion_tokens for chunk in chunks)
    logprobs = tuple(itertools.chain.from_iterable(chunk.logprobs for chunk in chunks))
    return replace(chunks[-1], text=text, completion_tokens=tokens, logprobs=logprobs)


async def at_once(completions: Iterable[Coroutine[Any, Any, Chunk]]) -> list[Chunk]:
    """All of them, in their order. Where one fails, the others end with it."""
    tasks = [asyncio.create_task(completion) for completion in completions]
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def answer_of(completion: Chunk) -> Chunk | None:
    """An own answer that came to its end, without its thoughts; None: it says nothing, or reads a draft instead of
    answering."""
    text = strip_reasoning(completion.text)
    usable = completion.finish_reason == "stop" and not is_blank(text) and not has_readings(text)
    return replace(completion, text=text) if usable else None


class Spent:
    """The tokens of whole completions."""

    def __init__(self, written: Sequence[Chunk]) -> None:
        self._written = tuple(written)
        self.completion = sum(chunk.completion_tokens for chunk in written)
        self.prompt = sum(chunk.prompt_tokens for chunk in written)
        self.cached = sum(chunk.cached_tokens for chunk in written)
        self._accepted = sum(chunk.accepted_tokens for chunk in written)
        self._rejected = sum(chunk.rejected_tokens for chunk in written)

    def and_for(self, written: Sequence[Chunk]) -> "Spent":
        return Spent([*self._written, *written])

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


def less(sampling: SamplingParams, spent: Spent) -> SamplingParams:
    """With what is left of the budget."""
    budget = sampling.max_total_tokens
    return sampling if budget is None else replace(sampling, max_total_tokens=budget - spent.total)
