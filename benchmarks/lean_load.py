"""A lean HTTP load generator: keep-alive connections, closed loop or open loop, on one event loop.

It costs a fraction of what the servers cost that it measures; benchmarks/gateway.py reports its own share of a core.
"""

import asyncio
import random
import time
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import httptools

_OVERHEAD = b"x-slhf-overhead-ms"


@dataclass(frozen=True, slots=True)
class Target:
    """A path of a running server and what is sent to it."""

    url: str
    body: bytes

    @property
    def address(self) -> tuple[str, int]:
        parts = urlsplit(self.url)
        return str(parts.hostname), int(parts.port or 80)

    @property
    def request(self) -> bytes:
        parts = urlsplit(self.url)
        head = f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        return f"{head}Content-Length: {len(self.body)}\r\n\r\n".encode() + self.body


@dataclass(slots=True)
class Sample:
    """What one run of a load saw. Times are milliseconds."""

    latencies: list[float] = field(default_factory=list)
    server_overheads: list[float] = field(default_factory=list)
    """The answers' `X-SLHF-Overhead-Ms`."""
    answer_bytes: int = 0
    """Size of the last answer's body."""
    seconds: float = 0.0

    @property
    def per_second(self) -> float:
        return len(self.latencies) / self.seconds


class _Connection(asyncio.Protocol):
    """One request at a time; implements httptools' callbacks."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample
        self._answered: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    async def ask(self, request: bytes) -> None:
        self._answered = asyncio.get_running_loop().create_future()
        self._parser = httptools.HttpResponseParser(self)
        self._size = 0
        self.transport.write(request)
        await self._answered

    def data_received(self, data: bytes) -> None:
        self._parser.feed_data(data)

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == _OVERHEAD:
            self._sample.server_overheads.append(float(value))

    def on_body(self, body: bytes) -> None:
        self._size += len(body)

    def on_message_complete(self) -> None:
        assert self._answered is not None
        status = self._parser.get_status_code()
        self._sample.answer_bytes = self._size
        if status == 200:
            self._answered.set_result(None)
        else:
            self._answered.set_exception(RuntimeError(f"answered {status}"))

    def connection_lost(self, exc: Exception | None) -> None:
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(ConnectionError("the server closed the connection"))


async def closed_loop(target: Target, at_once: int, seconds: float) -> Sample:
    """`at_once` clients, each sending its next request when it has the answer to the last."""
    sample, started = Sample(), time.perf_counter()

    async def client(connection: _Connection) -> None:
        while (sent := time.perf_counter()) < started + seconds:
            await connection.ask(target.request)
            sample.latencies.append((time.perf_counter() - sent) * 1e3)

    connections = await _connect(target, at_once, sample)
    started = time.perf_counter()
    await asyncio.gather(*map(client, connections))
    return _ended(sample, started, connections)


async def open_loop(target: Target, per_second: float, at_once: int, seconds: float, seed: int) -> Sample:
    """Poisson arrivals whatever the server does, at most `at_once` under way.

    A latency counts from the moment the request was due, so waiting for a free connection is part of it.
    """
    sample, draw = Sample(), random.Random(seed)
    connections = await _connect(target, at_once, sample)
    free: asyncio.Queue[_Connection] = asyncio.Queue()
    for connection in connections:
        free.put_nowait(connection)

    async def request(due: float) -> None:
        connection = await free.get()
        await connection.ask(target.request)
        free.put_nowait(connection)
        sample.latencies.append((time.perf_counter() - due) * 1e3)

    started = due = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        while (due := due + draw.expovariate(per_second)) < started + seconds:
            await asyncio.sleep(due - time.perf_counter())
            group.create_task(request(due))
    return _ended(sample, started, connections)


async def _connect(target: Target, count: int, sample: Sample) -> list[_Connection]:
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: _Connection(sample), *target.address) for _ in range(count)]
    return [connection for _, connection in made]


def _ended(sample: Sample, started: float, connections: list[_Connection]) -> Sample:
    sample.seconds = time.perf_counter() - started
    for connection in connections:
        connection.transport.close()
    return sample
