"""An upstream that misbehaves as told: a real HTTP server on 127.0.0.1, written on bare streams.

It answers each request by the next of its replies, and further ones by the last. Every connection serves one request.
"""

import asyncio
import json
import socket
import struct
import threading
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import Any

Reply = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
HELLO = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello you"}, "finish_reason": "stop"}]}
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@dataclass(frozen=True)
class Asked:
    """A request as it came over the wire."""

    line: str
    headers: Mapping[str, str]
    body: Any


class Faulty:
    """The server's side of a test."""

    def __init__(self, *replies: Reply) -> None:
        self.replies = list(replies)
        self.asked: list[Asked] = []
        self.connections = 0
        self.most_connections = 0
        self.port = 0
        self._changed = asyncio.Condition()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def until_asked(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.asked) >= count)

    async def until_connections(self, count: int) -> None:
        async with self._changed:
            await self._changed.wait_for(lambda: self.connections == count)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._count(+1)
        try:
            asked = await _read(reader)
            reply = self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]
            async with self._changed:
                self.asked.append(asked)
                self._changed.notify_all()
            await reply(reader, writer)
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()  # the client has gone, as some tests want it to
        finally:
            await self._count(-1)

    async def _count(self, change: int) -> None:
        async with self._changed:
            self.connections += change
            self.most_connections = max(self.most_connections, self.connections)
            self._changed.notify_all()


@asynccontextmanager
async def serving(*replies: Reply) -> AsyncGenerator[Faulty, None]:
    faulty = Faulty(*replies)
    server = await asyncio.start_server(faulty.serve, "127.0.0.1", 0)
    faulty.port = server.sockets[0].getsockname()[1]
    async with server:
        yield faulty
        await faulty.until_connections(0)


@contextmanager
def upstream(*replies: Reply) -> Iterator[Faulty]:
    """The upstream on an event loop of its own, beside the server's and the test's."""
    started, stop = threading.Event(), asyncio.Event()
    servers: list[Faulty] = []
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with serving(*replies) as server:
            servers.append(server)
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield servers[0]
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


async def _read(reader: asyncio.StreamReader) -> Asked:
    line, *rest = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
    headers = {name.lower(): value for name, value in (header.split(": ", 1) for header in rest)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(line, headers, json.loads(body or b"null"))


def raw(content: bytes, *, status: int = 200, kind: str = "application/json", **headers: str) -> Reply:
    """Any answer; underscores in the headers' names become dashes."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = {"content-type": kind, "content-length": str(len(content)), "connection": "close"}
        writer.write(_head(status, lines | {name.lower().replace("_", "-"): value for name, value in headers.items()}))
        writer.write(content)
        await writer.drain()

    return reply


def says(body: Any, *, status: int = 200, **headers: str) -> Reply:
    """A JSON answer."""
    return raw(json.dumps(body).encode(), status=status, **headers)


def error(status: int, *, code: str | None = None, message: str = "SECRET-BODY", **headers: str) -> Reply:
    """OpenAI's error object."""
    body = {"error": {"message": message, "type": "x", "param": None, "code": code}}
    return says(body, status=status, **headers)


def streams(*events: Any, done: bool = True) -> Reply:
    """Server-sent events; a string is sent as it is."""
    return raw(_events(*events, done=done), kind="text/event-stream; charset=utf-8")


def hello() -> Reply:
    """A good streamed answer."""
    return streams(*pieces("Hello", " you"), {"choices": [], "usage": USAGE})


def pieces(*texts: str, finish_reason: str | None = "stop") -> list[Any]:
    first = [{"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}]
    middle = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    return first + middle + ([{"choices": [{"index": 0, "delta": {}, "finish_reason": finish_reason}]}])


def reset(*events: Any) -> Reply:
    """Reset the connection: at once, or in the middle of a stream."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if events:
            await _begin(writer, *events)
            await asyncio.sleep(0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return reply


def breaks_off(*events: Any) -> Reply:
    """Close the connection in the middle of a stream."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _begin(writer, *events)

    return reply


def silent(*events: Any) -> Reply:
    """Say nothing, or nothing more after these events, until the client hangs up."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if events:
            await _begin(writer, *events)
        await reader.read()

    return reply


def held(gate: asyncio.Event, then: Reply) -> Reply:
    """A slow first byte: nothing until the gate opens."""

    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await gate.wait()
        await then(reader, writer)

    return reply


async def _begin(writer: asyncio.StreamWriter, *events: Any) -> None:
    writer.write(_head(200, {"content-type": "text/event-stream", "transfer-encoding": "chunked"}))
    content = _events(*events, done=False)
    writer.write(b"%x\r\n%s\r\n" % (len(content), content))
    await writer.drain()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", *(f"{name}: {value}" for name, value in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def _events(*events: Any, done: bool) -> bytes:
    texts = [event if isinstance(event, str) else json.dumps(event) for event in events]
    return "".join(f"data: {text}\n\n" for text in texts + ["[DONE]"] * done).encode()
