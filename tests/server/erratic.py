"""A model that does what no model should, and a clock on which an hour takes no time."""

import asyncio
import selectors
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slhf.wire import FinishReason, TokenLogprob
from slhf_server.errors import ContextLengthExceeded, RequestError, TokenBudgetExceeded
from slhf_server.model import Chunk, Sampling, Turn

SECRET = "SECRET"
"""Stands in every thought and in no text."""
CALL: dict[str, Any] = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
Ending = str | RequestError
"""How a completion ended: its finish reason, its error, or "closed"."""


class _Clock(selectors.SelectSelector):
    """Does not wait: it says that the time has passed."""

    now = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "every task waits for ever"
        self.now += max(0.0, timeout)
        return super().select(0)


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop on virtual time."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)

    def time(self) -> float:
        return self._clock.now


@dataclass(frozen=True)
class Act:
    """One completion of an `Erratic`."""

    text: str
    before: str = ""
    """Thoughts, with or without their tags."""
    size: int = 3
    """Characters of a piece; a piece is a token."""
    pause: float = 0.0
    """Seconds before each piece."""
    error: RequestError | None = None
    """Raised after the text."""
    calls_tools: bool = False

    @property
    def whole(self) -> str:
        return self.before + self.text

    def pieces(self) -> Iterator[str]:
        yield from (self.whole[i : i + self.size] for i in range(0, len(self.whole), self.size))


class Erratic:
    """Implements `ChatModel`: plays one act after the other, then the last one again. A word of the prompt is a token,
    and so is a piece. Keeps to the limits that it is told."""

    name = "erratic"

    def __init__(self, acts: Sequence[Act], *, max_model_len: int = 10_000) -> None:
        self.seen: list[Sequence[Turn]] = []
        self.endings: list[Ending] = []
        self.played: list[Act] = []
        self.running = 0
        self._acts = acts
        self._max_model_len = max_model_len

    async def stream(
        self, turns: Sequence[Turn], sampling: Sampling, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        act = self._acts[min(len(self.seen), len(self._acts) - 1)]
        self.seen.append(turns)
        self.played.append(act)
        self.running += 1
        ending: Ending = "closed"
        try:
            prompt = sum(len(turn.text.split()) for turn in turns)
            async for chunk in _chunks(act, prompt, self._room(prompt, sampling), sampling.logprobs, deltas):
                ending = chunk.finish_reason or ending
                yield chunk
        except RequestError as exc:
            ending = exc
            raise
        finally:
            self.endings.append(ending)
            self.running -= 1

    def _room(self, prompt: int, sampling: Sampling) -> int:
        """Tokens that the completion may have."""
        room = self._max_model_len - prompt
        if room < 1:
            raise ContextLengthExceeded(prompt, self._max_model_len)
        if sampling.max_total_tokens is not None and sampling.max_total_tokens <= prompt:
            raise TokenBudgetExceeded("the prompt alone is over the budget")
        left = room if sampling.max_total_tokens is None else sampling.max_total_tokens - prompt
        return min(room, left, sampling.max_tokens or room)


async def _chunks(act: Act, prompt: int, room: int, logprobs: int | None, deltas: bool) -> AsyncGenerator[Chunk, None]:
    pieces = list(act.pieces())
    reason: FinishReason = "length" if len(pieces) > room else "tool_calls" if act.calls_tools else "stop"
    pieces = pieces[:room]
    for piece in pieces:
        await asyncio.sleep(act.pause)
        if deltas:
            yield Chunk(piece, 1, prompt, logprobs=_logprobs([piece], logprobs))
    if act.error is not None:
        raise act.error
    whole = "".join(pieces)
    yield Chunk(
        "" if deltas else whole,
        0 if deltas else len(pieces),
        prompt,
        finish_reason=reason,
        token_ids=tuple(map(ord, whole)),
        logprobs=() if deltas else _logprobs(pieces, logprobs),
        tool_calls=(CALL,) if reason == "tool_calls" else (),
    )


def _logprobs(pieces: Sequence[str], wanted: int | None) -> tuple[TokenLogprob, ...]:
    if wanted is None:
        return ()
    return tuple(TokenLogprob(token=piece, logprob=-1.0, bytes=list(piece.encode())) for piece in pieces)
