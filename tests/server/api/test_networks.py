"""Clients that go away, do not read, or never finish to speak: real sockets, fake engine.

The server runs in a thread of this process, so its tasks and its memory can be looked at.
"""

import asyncio
import contextlib
import gc
import json
import socket
import struct
import time
import tracemalloc
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from typing import Any

import httpx2
import pytest

from slhf_server.app import create_app
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, FakeModel
from slhf_server.settings.server import Settings
from tests.conftest import running

ASK = [{"role": "user", "content": "what is it"}]
BODIES: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": ("/v1/chat/completions", {"messages": ASK, "refine": {"rounds": 2}}),
    "chat streamed": ("/v1/chat/completions", {"messages": ASK, "refine": {"rounds": 2}, "stream": True}),
    "chat n streamed": ("/v1/chat/completions", {"messages": ASK, "n": 3, "refine": {"rounds": 2}, "stream": True}),
    "chat n": ("/v1/chat/completions", {"messages": ASK, "n": 3, "refine": {"rounds": 2}}),
    "refine": ("/v1/refine", {"prompt": "x", "rounds": 2}),
    "refine streamed": ("/v1/refine", {"prompt": "x", "rounds": 2, "stream": True}),
}


class Server:
    """A running application with a fake engine, its event loop in sight."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.url = ""
        self.http = httpx2.Client()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def open(self, settings: Settings) -> FakeEngine:
        self._loop = asyncio.get_running_loop()
        return self.engine

    def tasks(self) -> int:
        assert self._loop is not None
        return len(asyncio.all_tasks(self._loop))

    def at_work(self) -> int:
        return self.engine.leader.running + self.engine.follower.running

    def gauges(self) -> list[float]:
        page = self.http.get(f"{self.url}/metrics").text
        names = ("slhf_num_requests_running{", "slhf_num_requests_waiting{")
        return [float(line.split()[-1]) for line in page.splitlines() if line.startswith(names)]

    def send(self, path: str, body: dict[str, Any], *, receive_buffer: int | None = None) -> socket.socket:
        """A request on a connection of its own; nobody reads its answer yet."""
        content = json.dumps(body).encode()
        connection = self.connect(receive_buffer)
        head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(content)}\r\n\r\n"
        connection.sendall(head.encode() + content)
        return connection

    def connect(self, receive_buffer: int | None = None) -> socket.socket:
        connection = socket.socket()
        if receive_buffer is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        connection.settimeout(30)
        connection.connect(("127.0.0.1", int(self.url.rsplit(":", 1)[1])))
        return connection


@contextlib.contextmanager
def server(engine: FakeEngine, **settings: Any) -> Iterator[Server]:
    live = Server(engine)
    with running(create_app(Settings(**settings), live.open)) as live.url, live.http:
        live.http.get(f"{live.url}/health")  # its connection is one of the tasks that stay
        yield live


def until(condition: Callable[[], bool], live: Server, seconds: float = 30.0) -> None:
    """Asks again after each turn of the server's loop, which `/health` shows."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up, "it did not come true in time"
        live.http.get(f"{live.url}/health")


def reset(connection: socket.socket) -> None:
    """Go away without a word: RST instead of FIN."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def everything_has_ended(live: Server, tasks: int) -> None:
    until(lambda: live.at_work() == 0 and live.gauges() == [0.0, 0.0] and live.tasks() <= tasks, live)


def fake(leader_s: float, follower_s: float) -> FakeEngine:
    """An engine whose roles take this long for each word."""
    engine = FakeEngine()
    for role, seconds in (("leader", leader_s), ("follower", follower_s)):
        setattr(engine, role, FakeModel("fake", lambda t: "w " * 19 + "w", token_seconds=seconds, max_model_len=4096))
    return engine


def at_once(live: Server, connection: socket.socket) -> None:
    """The client leaves right after it has sent its request."""


def while_the_leader_drafts(live: Server, connection: socket.socket) -> None:
    until(lambda: live.engine.leader.running > 0, live)


def in_the_first_round(live: Server, connection: socket.socket) -> None:
    until(lambda: live.engine.follower.running > 0, live)


def in_the_last_rounds_text(live: Server, connection: socket.socket) -> None:
    seen = b""
    while b' "w' not in seen and b'"round":2,"delta":"w' not in seen:
        seen += connection.recv(4096)


MOMENTS: list[tuple[Callable[[Server, socket.socket], None], float, float]] = [
    (at_once, 3600, 3600),
    (while_the_leader_drafts, 3600, 3600),
    (in_the_first_round, 0, 3600),
    (in_the_last_rounds_text, 0, 0.02),
]
"""When the client leaves, and how long the roles take for a word so that the moment lasts."""


@pytest.mark.parametrize("leave", [socket.socket.close, reset], ids=["closed", "reset"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment[0].__name__)
def test_whoever_goes_away_takes_all_of_the_work_along(
    moment: tuple[Callable[[Server, socket.socket], None], float, float], leave: Callable[[socket.socket], None]
) -> None:
    happens, leader_s, follower_s = moment
    with server(fake(leader_s, follower_s)) as live:
        until(lambda: live.gauges() == [0.0, 0.0], live)
        tasks = live.tasks()
        for path, body in BODIES.values():
            if happens is in_the_last_rounds_text and not body.get("stream"):
                continue
            connection = live.send(path, body)
            happens(live, connection)
            leave(connection)
            everything_has_ended(live, tasks)


def test_whoever_goes_away_in_the_queue_leaves_it() -> None:
    with server(FakeEngine(token_seconds=5), limits={"running": 1, "waiting": 9}) as live:
        tasks = live.tasks()
        first = live.send(*BODIES["chat"])
        until(lambda: live.engine.leader.running == 1, live)
        others = [live.send(*BODIES[what]) for what in BODIES]
        until(lambda: live.gauges() == [1.0, len(others)], live)
        for connection in others:
            connection.close()
        until(lambda: live.gauges() == [1.0, 0.0], live)
        assert len(live.engine.leader.calls) == 1
        first.close()
        everything_has_ended(live, tasks)


def test_clients_that_go_away_leave_no_memory_behind() -> None:
    def abandon(requests: int) -> int:
        """Bytes that are held when all these requests were abandoned."""
        for number in range(requests):
            connection = live.send(*list(BODIES.values())[number % len(BODIES)])
            if number % 3 == 0:
                until(lambda: live.at_work() > 0, live)
            reset(connection)
        everything_has_ended(live, tasks)
        live.engine.leader.calls.clear()
        live.engine.follower.calls.clear()
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    with server(fake(0, 3600)) as live:
        until(lambda: live.gauges() == [0.0, 0.0], live)
        tasks = live.tasks()
        tracemalloc.start()
        try:
            before = abandon(100)
            after = abandon(400)
        finally:
            tracemalloc.stop()
    assert after - before < 500_000  # a request that stays behind holds more than 1.25 kB


class Torrent(FakeModel):
    """Writes many large words as fast as it is let, and counts them."""

    def __init__(self, words: int) -> None:
        super().__init__("fake", lambda turns: " ".join(["w" * 10_000] * words), token_seconds=0, max_model_len=10**9)
        self.written = 0

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        async with contextlib.aclosing(super().stream(turns, sampling, request_id=request_id, deltas=deltas)) as chunks:
            async for chunk in chunks:
                self.written += len(chunk.text)
                yield chunk


@pytest.mark.parametrize("what", ["chat streamed", "chat n streamed", "refine streamed"])
def test_a_client_that_does_not_read_stops_its_models(what: str) -> None:
    """What is under way fits in the buffers of the sockets and of one write; reading on brings all of it."""
    path, body = BODIES[what]
    engine = FakeEngine()
    engine.follower = model = Torrent(3000)
    body = {**body, "refine": {"draft": "d"}} if "messages" in body else {**body, "draft": "d", "rounds": 1}
    whole = 30_000_000 * body.get("n", 1)
    with server(engine) as live:
        connection = live.send(path, body, receive_buffer=4096)
        until(lambda: model.written > 0, live)
        seen = [-1] * 50
        while len(set(seen)) > 1 or seen[0] < 0:  # it stands when it has not moved in 50 turns
            live.http.get(f"{live.url}/health")
            seen = [*seen[1:], model.written]
        assert model.written < whole / 3
        assert live.gauges()[0] == 1
        received = 0
        while model.running or model.written < whole:
            received += len(connection.recv(1 << 20))
        connection.close()
        assert model.written >= whole > received - whole  # all of it was written, and not more than once or twice
        until(lambda: live.gauges() == [0.0, 0.0], live)


def test_a_request_that_never_ends_holds_no_place() -> None:
    head = b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    beginnings = [b"", b"PO", head[:40], head, head + b'{"prompt": "']
    chunked = head.replace(b"Content-Length: 1000", b"Transfer-Encoding: chunked") + b'5\r\n{"pro\r\n'
    with server(FakeEngine(), limits={"running": 1, "waiting": 0}) as live:
        tasks = live.tasks()
        connections = [live.connect() for _ in range(8) for _ in (*beginnings, chunked)]
        for number, connection in enumerate(connections):
            connection.sendall([*beginnings, chunked][number % 6])
        assert httpx2.post(f"{live.url}/v1/refine", json={"prompt": "x"}).status_code == 200
        assert live.gauges() == [0.0, 0.0]
        assert live.engine.leader.calls[1:] == []
        for connection in connections:
            connection.close()
        everything_has_ended(live, tasks)


def test_a_body_that_comes_byte_by_byte_is_answered() -> None:
    with server(FakeEngine()) as live:
        connection = live.connect()
        for byte in b'POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{"prompt": "x"}':
            connection.sendall(bytes([byte]))
        assert connection.recv(4096).startswith(b"HTTP/1.1 200")
        connection.close()
