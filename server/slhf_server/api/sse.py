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
_logger = logging.getLogger(__name__)


def frame(data: str, event: str | None = None) -> bytes:
    """An event's bytes; `data` is JSON, so it holds no newline."""
    return f"event: {event}\ndata: {data}\n\n".encode() if event else f"data: {data}\n\n".encode()


class Closable(Protocol):
    async def aclose(self) -> None: ...


class EventStream(StreamingResponse):
    """Streams frames and, whatever happens, closes their generator and its source before it returns.

    That aborts the work; a generator that was never started has no `finally` that could do it. A client that reads
    nothing for `write_timeout_s` seconds is given up.
    """

    media_type = "text/event-stream"

    def __init__(self, frames: AsyncGenerator[bytes, None], source: Closable, write_timeout_s: float) -> None:
        super().__init__(frames, headers=_HEADERS)
        self._frames = frames
        self._source = source
        self._write_timeout_s = write_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except _NotRead:
            _logger.warning("a client read nothing of its stream for %g s and was given up", self._write_timeout_s)
        finally:
            await self._frames.aclose()
            await self._source.aclose()

    async def stream_response(self, send: Send) -> None:
        async def bounded(message: Message) -> None:
            try:
                async with asyncio.timeout(self._write_timeout_s):
                    await send(message)
            except TimeoutError as exc:
                raise _NotRead from exc

        await super().stream_response(bounded)


class _NotRead(Exception):
    """The client does not read."""


class Peekable(Generic[T]):
    """An async iterator whose wait for the next item can time out without losing that item."""

    def __init__(self, items: AsyncGenerator[T, None]) -> None:
        self._items = items
        self._pending: asyncio.Future[T] | None = None
        self._ahead: deque[T] = deque()

    async def look_ahead(self, seconds: float) -> T | None:
        """The next item not looked at yet, which `next_within` will still give; None if it is not there yet."""
        item = await self._fetch(seconds)
        if item is not None:
            self._ahead.append(item)
        return item

    async def next_within(self, seconds: float) -> T | None:
        """The next item; None if it is not there yet. Raises StopAsyncIteration at the end, as anext does."""
        return self._ahead.popleft() if self._ahead else await self._fetch(seconds)

    async def _fetch(self, seconds: float) -> T | None:
        if self._pending is None:
            self._pending = asyncio.ensure_future(anext(self._items))
        done, _ = await asyncio.wait({self._pending}, timeout=max(0.0, seconds))
        if not done:
            return None
        pending, self._pending = self._pending, None
        return pending.result()

    async def aclose(self) -> None:
        if self._pending is not None:
            self._pending.cancel()
            await asyncio.gather(self._pending, return_exceptions=True)
        await self._items.aclose()
