"""A client that does not read holds nothing for ever: neither a place, nor its work, nor a connection."""

import json
import socket
from pathlib import Path

import httpx2
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.server.api.raw import connect
from tests.server.conftest import eventually

WORD = "w" * 10_000


def has_connection(client: socket.socket) -> bool:
    """Whether the kernel still has the server's end: Linux lists its own and its peer's port in hexadecimal."""
    ports = [f"{address[1]:04X}" for address in (client.getpeername(), client.getsockname())]
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any([place[-4:] for place in line.split()[1:3]] == ports for line in lines)


@pytest.mark.parametrize("path", ["/v1/refine", "/v1/chat/completions"])
def test_a_stream_that_nobody_reads_is_given_up(serve: Serve, path: str) -> None:
    """20 MB are far more than the socket's buffers hold."""
    engine = FakeEngine(lambda turns: " ".join([WORD] * 2000))
    url = serve(
        engine, api_keys="me=right", write_timeout_s=0.5, limits={"running": 1, "waiting": 0, "key_concurrency": 1}
    )
    chat = {"messages": [{"role": "user", "content": "x"}], "stream": True, "refine": {"draft": "d"}}
    body = json.dumps({"prompt": "x", "draft": "d", "stream": True} if path == "/v1/refine" else chat).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer right\r\nContent-Length: {len(body)}\r\n\r\n"
    short = {"prompt": "x", "draft": "d", "rounds": 0}
    with connect(url, receive_buffer=4096) as connection, httpx2.Client(base_url=url) as http:
        http.headers["Authorization"] = "Bearer right"
        connection.sendall(head.encode() + body)
        connection.recv(1, socket.MSG_PEEK)  # it has begun
        assert http.post("/v1/refine", json=short).status_code == 429
        assert eventually(lambda: http.post("/v1/refine", json=short).status_code == 200)
        assert engine.follower.running == 0
        assert eventually(lambda: not has_connection(connection))
