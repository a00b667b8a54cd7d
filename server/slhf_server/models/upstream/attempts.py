"""Attempts at one address: admitted by its breaker, judged by how they end, and repeated after a pause.

What an attempt asks and how its answer is read is its caller's: an upstream's (client.py), or a remote engine's
(engine/remote.py).
"""

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx2

from slhf.retry import backoff
from slhf_server.deadline import time_left
from slhf_server.errors import BadRequest, DeadlineExceeded, UpstreamUnavailable
from slhf_server.models.upstream.breaker import CircuitBreaker
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.models.upstream.events import Values
from slhf_server.models.upstream.failures import FOREIGN, REFUSED, Failure, StatusError
from slhf_server.models.upstream.refusal import MOST_BYTES
from slhf_server.settings.endpoints import EndpointSettings

Accepts = Callable[[httpx2.Response], Awaitable[bool]]
"""Whether the answer to `GET models` says that the address can be used."""

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
class Progress:
    """How far an attempt has come."""

    started: float = field(default_factory=time.perf_counter)
    begun: bool = False
    """Whether the answer has begun, after which nobody asks for it again."""
    first_byte_s: float | None = None
    """Seconds until the first byte of its answer; None: it has not come."""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


@dataclass(frozen=True, slots=True)
class Patience:
    """Where an endpoint has its time and its luck from; tests bring their own."""

    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep
    random: Callable[[], float] = random.random
    clock: Callable[[], float] = time.monotonic


async def any_answer(_: httpx2.Response) -> bool:
    return True


class Endpoint:
    """One address, with all that is known of how it fares."""

    answered = False
    """Whether it has answered once since the server started."""

    def __init__(
        self,
        kind: str,
        label: str,
        settings: EndpointSettings,
        client: httpx2.AsyncClient,
        metrics: UpstreamMetrics,
        patience: Patience,
    ) -> None:
        """`kind` is what it is, `label` its name in metrics, messages and the log. It closes the client."""
        self.label = label
        self.who = f"the {kind} {label!r}"
        """Its name in messages."""
        self.logged = f"{kind} {label}"
        """Its name in the log."""
        self.client = client
        self.load = 0
        """Requests that are with it or wait for it."""
        self._settings = settings
        self._metrics = metrics
        self._patience = patience
        self._places = asyncio.Semaphore(settings.max_concurrent)
        self._breaker = CircuitBreaker(settings.breaker_failures, settings.breaker_cooldown_s, patience.clock)
        metrics.breaker.labels(label).set_function(lambda: float(self._breaker.is_open))
        self._first_byte_s = 0.0
        """Seconds until the last good answer began, halved by every request that has since waited for less in vain."""

    @property
    def left_alone(self) -> bool:
        """Whether it is asked for nothing at present, after failures."""
        return self._breaker.refuses

    @asynccontextmanager
    async def place(self) -> AsyncGenerator[None, None]:
        """Wait for one of its places."""
        self.load += 1
        try:
            async with self._places:
                yield
        finally:
            self.load -= 1

    @contextmanager
    def attempt(self, translate: Callable[[Exception, bool], Failure]) -> Iterator[Progress]:
        """Make an attempt if the breaker admits it, and tell breaker and metrics how it ends. Raises Failure.

        `translate` says what an exception means; its second argument is whether the answer had begun.

        An attempt that a client abandons says nothing. One that ends because a deadline passes while the other side is
        silent has failed, else one that hangs would be asked for ever; but it has not where good answers take longer to
        begin, else one client with short deadlines would take the endpoint from all the others.
        """
        if time_left() <= 0:
            raise DeadlineExceeded("the deadline passed before an answer was finished")
        wait = self._breaker.admit()
        if wait > 0:
            self._metrics.errors.labels(self.label, "breaker_open").inc()
            message = f"{self.who} has failed too often and is left alone for a while"
            raise Failure("breaker_open", UpstreamUnavailable(message, retry_after=math.ceil(wait)))
        progress = Progress()
        try:
            yield progress
        except FOREIGN as exc:
            failed = translate(exc, progress.begun)
            self._failed(failed, exc)
            raise failed from exc
        except asyncio.CancelledError:
            if progress.first_byte_s is None and time_left() <= 0:
                self._silent_until_a_deadline(progress.seconds)
            raise
        self._breaker.succeeded()
        self._first_byte_s = progress.first_byte_s or 0.0
        self._metrics.latency.labels(self.label).observe(progress.seconds)

    def pause(self, failed: Failure, attempt: int) -> float | None:
        """Seconds until the next attempt: what the other side asks for, plus full jitter. None: there is no next one.

        `attempt` counts from 0.
        """
        if not failed.retryable or attempt >= self._settings.max_retries or self._breaker.is_open:
            return None
        if failed.retry_after > _LONGEST_PAUSE_S:
            return None
        pause = failed.retry_after + backoff(attempt, self._patience.random())
        return pause if pause < time_left() else None

    async def rest(self, seconds: float) -> None:
        await self._patience.sleep(seconds)

    async def probe(self, accepts: Accepts = any_answer) -> bool:
        """Whether it answers now, with anything but a refusal of the key, a redirect or its own error, and as accepted.

        Raises what `accepts` raises.
        """
        try:
            async with self.client.stream("GET", "models", timeout=_PROBE_S) as response:
                status = response.status_code
                if status in (401, 403) or not (response.is_success or 400 <= status < 500):
                    _logger.warning("%s is not ready: HTTP %d", self.logged, status)
                    return False
                self.answered = await accepts(response)
        except httpx2.HTTPError as exc:
            _logger.warning("%s is not ready: %s", self.logged, type(exc).__name__)
            return False
        return self.answered

    async def await_answer(self, accepts: Accepts = any_answer) -> None:
        """Probe until it has answered once."""
        pause, longest = _PROBE_PAUSE_S
        while not await self.probe(accepts):
            await self.rest(pause)
            pause = min(2 * pause, longest)
        _logger.info("%s has answered", self.logged)

    async def close(self) -> None:
        await self.client.aclose()

    def _failed(self, failed: Failure, exc: Exception) -> None:
        if isinstance(failed.error, BadRequest):  # the client's fault: the other side is well
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
        _logger.warning("%s: %s (%s)", self.logged, kind, said)


async def json_values(response: httpx2.Response, progress: Progress) -> AsyncGenerator[list[Any], None]:
    """Yield the JSON values of an answer as its bytes complete them, whatever its form (events.py)."""
    values = Values()
    async with aclosing(response.aiter_bytes()) as pieces:
        async for piece in pieces:
            progress.first_byte_s = progress.first_byte_s or progress.seconds
            yield values.feed(piece)
            if values.done:
                await _drain(pieces)
                return
            if len(piece) > _MOST_READ:
                await asyncio.sleep(0)
    yield values.end()


def encoded(body: Mapping[str, Any]) -> bytes:
    """The request's body as JSON. Raises BadRequest where a text holds half of a surrogate pair, or a number is NaN."""
    try:
        return json.dumps(body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    except (ValueError, RecursionError) as exc:
        raise BadRequest("the request cannot be written as JSON for the upstream") from exc


async def status_error(response: httpx2.Response) -> StatusError:
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
