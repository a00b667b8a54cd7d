"""Sends server-sent events (WHATWG HTML, section 9.2) and ends their work, whatever happens to the client."""

import asyncio
import logging
from collections import deque
from collections.abc import AsyncGenerator
from typing import Generic, Protocol, TypeVar

from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

T = TypeVar("T")
PING = b": ping\n\n"
DONE = b"data: [DONE]\n\n"
_HEADERS = {"Cache-Control": "no-cache, no-transform", "X-Accel-Buffering": "no"}
_NOW_S = 1e-3  # what is due so soon is due: rounding may make the rest of a wait too small to move a clock
_logger = logging.getLogger(__name__)


def frame(data: str, event: str | None = None) -> bytes:
    """An event's bytes; `data` is JSON, so it holds no newline."""
    return f"event: {event}\ndata: {data}\n\n".encode() if event else f"data: {data}\n\n".encode()


class Closable(Protocol):
    async def aclose(self) -> None: ...


class EventStream(StreamingResponse):
    """Streams frames and, whatever happens, closes their generator and its source before it returns.

    That aborts the work; a generator that was never started has no `finally` that could do it. Where nothing was sent
    for `ping_interval_s` seconds, `ping` is. A client that reads nothing for `write_timeout_s` seconds is given up, at
    the latest `ping_interval_s` seconds after that.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        frames: AsyncGenerator[bytes, None],
        source: Closable,
        *,
        write_timeout_s: float,
        ping_interval_s: float,
        ping: bytes = PING,
    ) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._frames = frames
        self._source = source
        self._write_timeout_s = write_timeout_s
        self._ping_interval_s = ping_interval_s
        self._ping: Message = {"type": "http.response.body", "body": ping, "more_body": True}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            await self._frames.aclose()
            await self._source.aclose()

    async def stream_response(self, send: Send) -> None:
        line = _Line(send)
        try:
            async with asyncio.timeout(None) as reading:  # until the client reads no more
                watching = asyncio.create_task(self._watch(line, reading))
                try:
                    await super().stream_response(line.send)
                finally:
                    watching.cancel()
                    await asyncio.wait({watching})
        except TimeoutError:
            if not reading.expired():
                raise
            _logger.warning("a client read nothing of its stream for %g s and was given up", self._write_timeout_s)
        finally:
            del reading, watching  # they know tasks, whose exceptions know this frame: circles that keep its memory

    async def _watch(self, line: "_Line", reading: asyncio.Timeout) -> None:
        """Ping, and end `reading`, when it is time. One task does it, because a timer for each frame costs more than
        all else that a frame needs here."""
        clock = asyncio.get_running_loop().time
        while True:
            due = line.since + (self._write_timeout_s if line.busy else self._ping_interval_s)
            if (left := due - clock()) > _NOW_S:
                await asyncio.sleep(min(left, self._write_timeout_s, self._ping_interval_s))
            elif line.busy:
                return reading.reschedule(clock())
            else:
                await self._send_ping(line, reading)

    async def _send_ping(self, line: "_Line", reading: asyncio.Timeout) -> None:
        try:
            async with asyncio.timeout(self._write_timeout_s):
                await line.send(self._ping)
        except TimeoutError:
            reading.reschedule(asyncio.get_running_loop().time())


class _Line:
    """What a stream's messages go through, which knows whether one is on its way."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._under_way = 0
        self._clock = asyncio.get_running_loop().time
        self.since = self._clock()
        """When the latest message was handed over, or was gone."""

    @property
    def busy(self) -> bool:
        return self._under_way > 0

    async def send(self, message: Message) -> None:
        self._under_way += 1
        self.since = self._clock()
        try:
            await self._send(message)
        finally:
            self._under_way -= 1
            self.since = self._clock()


class Peekable(Generic[T]):
    """An async iterator whose next items can be looked at, for as long as one likes to wait.

    A task of its own reads them, one ahead, so that who no longer waits for an item does not end what makes it.
    """

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._read: asyncio.Queue[T | None] = asyncio.Queue(1)  # None: there may be no more
        self._ahead: deque[T] = deque()
        self._reading: asyncio.Task[None] | None = None

    def __aiter__(self) -> "Peekable[T]":
        return self

    async def __anext__(self) -> T:
        return self._ahead.popleft() if self._ahead else await self._next()

    async def look_ahead(self, seconds: float) -> T | None:
        """The next item not looked at yet, which iteration will still give; None if it is not there yet. Raises
        StopAsyncIteration at the end, as anext does."""
        try:
            async with asyncio.timeout(seconds) as patience:
                item = await self._next()
        except TimeoutError:
            if not patience.expired():
                raise
            return None
        self._ahead.append(item)
        return item

    async def _next(self) -> T:
        if self._reading is None:
            self._reading = asyncio.create_task(self._read_all())
            self._reading.add_done_callback(self._wake_up)
        item = None if self._reading.done() and self._read.empty() else await self._read.get()
        if item is None:
            self._reading.result()  # raises what the items ended with
            raise StopAsyncIteration
        return item

    async def _read_all(self) -> None:
        async for item in self._items:
            await self._read.put(item)

    def _wake_up(self, _: object) -> None:
        """Have who waits see that the reading has ended. Where an item is left, they need not be woken."""
        if self._read.empty():
            self._read.put_nowait(None)

    async def aclose(self) -> None:
        reading, self._reading = self._reading, None  # whose exception knows this: a circle
        if reading is not None:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)
        await self._items.aclose()
