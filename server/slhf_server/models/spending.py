"""What completions have cost that are written for a round, as a part of that round."""

from collections.abc import Sequence
from dataclasses import replace

from slhf_server.models.base import Chunk, SamplingParams


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
