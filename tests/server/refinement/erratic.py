"""A model that does what no model should, and a clock on which an hour takes no time."""

import asyncio
import selectors
from collections.abc import AsyncGenerator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from slhf.wire import FinishReason, TokenLogprob
from slhf_server.errors import ContextLengthExceeded, TokenBudgetExceeded
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.judge import Verdict

SECRET = "SECRET"
"""Stands in every thought and in no text."""
CALL: dict[str, Any] = {"id": "call-1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
Ending = str | Exception
"""How a completion ended: its finish reason, its error, or "closed"."""


class _Clock(selectors.SelectSelector):
    """Does not wait: it says that the time has passed."""

    now = 0.0
    threads = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if self.threads and timeout != 0:
            return super().select(20)
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

    def run_in_executor(self, executor: Any, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """While a thread is at work, the clock waits for it."""
        self._clock.threads += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._thread_done)
        return future

    def _thread_done(self, future: Any) -> None:
        self._clock.threads -= 1


@dataclass(frozen=True)
class Act:
    """One completion of an `Erratic`."""

    text: str
    before: str = ""
    """Thoughts."""
    size: int = 3
    """Characters of a piece; a piece is a token."""
    pause: float = 0.0
    """Seconds before each piece."""
    error: Exception | None = None
    """Raised after the text."""
    calls_tools: bool = False

    @property
    def whole(self) -> str:
        return self.before + self.text

    def pieces(self) -> Iterator[str]:
        yield from (self.whole[i : i + self.size] for i in range(0, len(self.whole), self.size))


@dataclass
class Call:
    """What a model did for one round."""

    ended: Ending = "closed"
    said: str = ""
    """What it had sent when it ended, thoughts included."""
    tokens: int = 0
    """Of prompt and completion, as far as it has told."""
    at: float = 0.0
    """When it ended; virtual seconds."""


@dataclass(frozen=True)
class Opinion:
    """What a judge said when it was asked."""

    old: str
    new: str
    said: float | None | str
    """Its p; None: it abstained; "failed"; "closed": it was not waited for."""
    tokens: int
    at: float


class ErraticJudge:
    """Implements `Judge`: says one thing after the other, then the last one again; a failed question costs nothing."""

    name = "erratic"

    def __init__(self, says: Sequence[tuple[Any, float]]) -> None:
        """`says`: p, None or an exception, and seconds."""
        self.opinions: list[Opinion] = []
        self.running = 0
        self._says = says
        self._asked = 0

    def tokens(self, turns: Sequence[Turn], old: str, new: str) -> int:
        return 2 * sum(map(len, (old, new, *(turn.text for turn in turns)))) // 4

    async def compare(
        self, turns: Sequence[Turn], old: str, new: str, *, request_id: str, priority: int = 0
    ) -> Verdict:
        said, seconds = self._says[min(self._asked, len(self._says) - 1)]
        self._asked += 1
        self.running += 1
        told, tokens = "closed", 0
        try:
            await asyncio.sleep(seconds)
            told, tokens = ("failed", 0) if isinstance(said, Exception) else (said, 11)
        finally:
            self.running -= 1
            self.opinions.append(Opinion(old, new, told, tokens, asyncio.get_running_loop().time()))
        if isinstance(said, Exception):
            raise said
        return Verdict(said, None if said is None else True, prompt_tokens=10, completion_tokens=1)


class Erratic:
    """Implements `ChatModel`: plays one act after the other, then the last one again. A word of the prompt is a token,
    and so is a piece. Keeps to the limits that it is told."""

    name = "erratic"

    def __init__(self, acts: Sequence[Act], *, max_model_len: int = 10_000) -> None:
        self.seen: list[Sequence[Turn]] = []
        self.calls: list[Call] = []
        self.running = 0
        self._acts = acts
        self._max_model_len = max_model_len

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        act = self._acts[min(len(self.seen), len(self._acts) - 1)]
        self.seen.append(turns)
        call = Call()
        self.calls.append(call)
        self.running += 1
        try:
            prompt = sum(len(turn.text.split()) for turn in turns)
            async for chunk in _chunks(act, prompt, self._room(prompt, sampling), sampling.logprobs, deltas):
                call.ended = chunk.finish_reason or call.ended
                call.said += chunk.text
                call.tokens = (call.tokens or chunk.prompt_tokens) + chunk.completion_tokens
                yield chunk
        except Exception as exc:
            call.ended = exc
            raise
        finally:
            call.at = asyncio.get_running_loop().time()
            self.running -= 1

    def _room(self, prompt: int, sampling: SamplingParams) -> int:
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
