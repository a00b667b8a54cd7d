"""An OpenAI-compatible endpoint as a chat model.

An attempt asks the upstream once: the breaker admits it, `dialect.py` makes the request, `events.py` and `answer.py`
read what comes back, `failures.py` translates whatever goes wrong. `Upstream.stream` makes attempts until one succeeds,
as long as no answer has begun.
"""

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Sequence
from contextlib import aclosing, contextmanager, suppress
from dataclasses import dataclass, field

import httpx2

from slhf.retry import backoff
from slhf.turns import OPEN_THOUGHT
from slhf_server.deadline import time_left
from slhf_server.errors import BadRequest, DeadlineExceeded, UpstreamUnavailable
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.upstream.answer import Completion
from slhf_server.models.upstream.breaker import CircuitBreaker
from slhf_server.models.upstream.connection import connect
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.models.upstream.dialect import Dialect, Request
from slhf_server.models.upstream.events import Values
from slhf_server.models.upstream.failures import FOREIGN, REFUSED, Failure, StatusError, failure
from slhf_server.models.upstream.refusal import MOST_BYTES
from slhf_server.settings.endpoints import UpstreamSettings

_LONGEST_PAUSE_S = 30.0
"""Where Retry-After asks for a longer pause, nothing is retried, and the client is told."""
_LEFTOVER_S = 0.1
"""How long the bytes may take to end after [DONE]; else the connection cannot serve the next request."""
_MOST_READ = 65_536
"""Bytes that a socket gives at once. After a larger piece, which was compressed, other tasks get their turn."""
_PROBE_S = 10.0
_PROBE_PAUSE_S = (0.1, 5.0)
_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Progress:
    """How far an attempt has come."""

    started: float = field(default_factory=time.perf_counter)
    begun: bool = False
    """Whether the upstream has said 200."""
    first_byte_s: float | None = None
    """Seconds until the first byte of its answer; None: it has not come."""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


class Upstream:
    """Implements `ChatModel`."""

    answered = False
    """Whether the upstream has answered once since the server started."""

    def __init__(
        self,
        label: str,
        settings: UpstreamSettings,
        metrics: UpstreamMetrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`label` names the upstream in the configuration, in metrics and in messages. Raises SettingsError."""
        self.label = label
        self.name = settings.model
        self._settings = settings
        self._metrics = metrics
        self._sleep = sleep
        self._random = random
        self._places = asyncio.Semaphore(settings.max_concurrent)
        self._breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_cooldown_s, clock)
        metrics.breaker.labels(label).set_function(lambda: float(self._breaker.is_open))
        self._dialect = Dialect(label, settings)
        self._operators = {"model", *settings.extra_body}
        self._first_byte_s = 0.0
        """Seconds until the last good answer began, halved by every request that has since waited for less in vain."""
        self._client = connect(label, settings)

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        request = self._dialect.request(turns, sampling, deltas)
        attempt = 0
        while True:
            try:
                async with self._places, aclosing(self._attempt(request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except Failure as failed:
                if (simpler := self._dialect.simpler(request, failed.refusal)) is not None:
                    request = simpler  # it is asked again at once: the upstream is well, and has said what it wants
                    continue
                pause = self._pause(failed, attempt)
                if pause is None:
                    raise failed.error from failed.__cause__
            attempt += 1
            await self._sleep(pause)

    async def probe(self) -> bool:
        """Whether the upstream answers now, with anything but a refusal of the key, a redirect or its own error."""
        try:
            async with self._client.stream("GET", "models", timeout=_PROBE_S) as response:
                status = response.status_code
        except httpx2.HTTPError as exc:
            _logger.warning("upstream %s is not ready: %s", self.label, type(exc).__name__)
            return False
        if status in (401, 403) or not (response.is_success or 400 <= status < 500):
            _logger.warning("upstream %s is not ready: HTTP %d", self.label, status)
            return False
        self.answered = True
        return True

    async def await_answer(self) -> None:
        """Probe until the upstream has answered once."""
        pause, longest = _PROBE_PAUSE_S
        while not await self.probe():
            await self._sleep(pause)
            pause = min(2 * pause, longest)
        _logger.info("upstream %s has answered", self.label)

    async def close(self) -> None:
        await self._client.aclose()

    async def _attempt(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Ask once, and yield the answer's chunks. Raises Failure."""
        content = _encoded(request)
        completion = Completion(self.label)
        with self._judged(request) as progress:
            async with self._client.stream("POST", "chat/completions", content=content) as response:
                if not response.is_success:
                    raise await _status_error(response)
                progress.begun = True
                self._dialect.accepted(request)
                if self._settings.opens_thought:
                    yield Chunk(OPEN_THOUGHT, 0)
                async with aclosing(self._chunks(response, completion, progress)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            last = completion.last()
        yield last

    async def _chunks(
        self, response: httpx2.Response, completion: Completion, progress: _Progress
    ) -> AsyncGenerator[Chunk, None]:
        """Yield the pieces of text as they come. An answer that breaks off after its finish reason is whole."""
        values = Values()
        try:
            async with aclosing(response.aiter_bytes()) as pieces:
                async for piece in pieces:
                    progress.first_byte_s = progress.first_byte_s or progress.seconds
                    for chunk in completion.chunks(values.feed(piece)):
                        yield chunk
                    if values.done:
                        await _drain(pieces)
                        return
                    if len(piece) > _MOST_READ:
                        await asyncio.sleep(0)
            for chunk in completion.chunks(values.end()):
                yield chunk
        except httpx2.HTTPError:
            if not completion.finished:
                raise

    @contextmanager
    def _judged(self, request: Request) -> Iterator[_Progress]:
        """Make an attempt if the breaker admits it, and tell breaker and metrics how it ends.

        An attempt that a client abandons says nothing. One that ends because a deadline passes while the upstream is
        silent has failed, else an upstream that hangs would be asked for ever; but it has not where good answers take
        longer to begin, else one client with short deadlines would take the upstream from all the others.
        """
        if time_left() <= 0:
            raise DeadlineExceeded("the deadline passed before an answer was finished")
        wait = self._breaker.admit()
        if wait > 0:
            self._metrics.errors.labels(self.label, "breaker_open").inc()
            message = f"the upstream {self.label!r} has failed too often and is left alone for a while"
            raise Failure("breaker_open", UpstreamUnavailable(message, retry_after=math.ceil(wait)))
        progress = _Progress()
        try:
            yield progress
        except FOREIGN as exc:
            failed = failure(self.label, exc, request, self._operators, begun=progress.begun)
            self._failed(failed, exc)
            raise failed from exc
        except asyncio.CancelledError:
            if progress.first_byte_s is None and time_left() <= 0:
                self._silent_until_a_deadline(progress.seconds)
            raise
        self._breaker.succeeded()
        self._first_byte_s = progress.first_byte_s or 0.0
        self._metrics.latency.labels(self.label).observe(progress.seconds)

    def _failed(self, failed: Failure, exc: Exception) -> None:
        if isinstance(failed.error, BadRequest):  # the client's fault: the upstream is well
            self._metrics.errors.labels(self.label, failed.kind).inc()
            self._breaker.succeeded()
            return
        said = [str(exc) if isinstance(exc, StatusError) else type(exc).__name__]
        self._count_failure(failed.kind, ", ".join(said + sorted(failed.refusal.fields)))

    def _silent_until_a_deadline(self, seconds: float) -> None:
        if seconds > self._first_byte_s:
            self._count_failure("timeout", "silent until a deadline")
        else:
            self._first_byte_s /= 2

    def _count_failure(self, kind: str, said: str) -> None:
        self._metrics.errors.labels(self.label, kind).inc()
        self._breaker.failed()
        _logger.warning("upstream %s: %s (%s)", self.label, kind, said)

    def _pause(self, failed: Failure, attempt: int) -> float | None:
        """Seconds until the next attempt: what the upstream asks for, plus full jitter. None: there is no next one."""
        if not failed.retryable or attempt >= self._settings.max_retries or self._breaker.is_open:
            return None
        if failed.retry_after > _LONGEST_PAUSE_S:
            return None
        pause = failed.retry_after + backoff(attempt, self._random())
        return pause if pause < time_left() else None


def _encoded(request: Request) -> bytes:
    """The request's body as JSON. Raises BadRequest where a text holds half of a surrogate pair, or a number is NaN."""
    try:
        return json.dumps(request.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise BadRequest("the request cannot be written as JSON for the upstream") from exc


async def _status_error(response: httpx2.Response) -> StatusError:
    """The status; where it refuses the request also the body, as far as it can be read, which says what is wrong."""
    content = bytearray()
    if response.status_code in REFUSED:
        with suppress(httpx2.HTTPError):
            async with aclosing(response.aiter_bytes()) as pieces:
                async for piece in pieces:
                    content += piece
                    if len(content) > MOST_BYTES:
                        break
    return StatusError(response.status_code, response.headers.get("retry-after", ""), bytes(content))


async def _drain(pieces: AsyncGenerator[bytes, None]) -> None:
    """Read to the end what follows [DONE], if it comes soon. It cannot spoil the answer any more."""
    with suppress(TimeoutError, httpx2.HTTPError):
        async with asyncio.timeout(_LEFTOVER_S):
            async for _ in pieces:
                pass
