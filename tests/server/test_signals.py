"""SIGTERM under load, on the server's own process: everything under way is answered before it ends."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.server.api.raw import connect
from tests.server.conftest import eventually

AT_ONCE = 40


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, str(Path(__file__).with_name("soak_server.py")), "3"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        yield running
        running.kill()


def ask(url: str, kind: str, number: int, *, stream: bool) -> socket.socket:
    body = json.dumps({"prompt": f"{kind} {number}", "stream": stream}).encode()
    connection = connect(url)
    connection.sendall(b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
    return connection


def answer(connection: socket.socket) -> bytes:
    with connection:
        return b"".join(iter(lambda: connection.recv(65536), b""))


def last_event(received: bytes) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(received.rsplit(b"data: ", 1)[1].split(b"\n")[0])
    return data


def facts(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout
    process.send_signal(signal.SIGUSR1)
    found: dict[str, Any] = json.loads(process.stdout.readline())
    return found


@pytest.mark.parametrize("times", [1, 2])
def test_a_signal_under_load_loses_no_finished_text(process: subprocess.Popen[str], times: int) -> None:
    assert process.stdout
    assert process.stderr
    url = f"http://127.0.0.1:{process.stdout.readline().strip()}"
    streams = [ask(url, "never_refined", i, stream=True) for i in range(AT_ONCE // 2)]
    plain = [ask(url, "never_refined", i, stream=False) for i in range(AT_ONCE // 2)]
    assert eventually(lambda: facts(process)["running"] == AT_ONCE)
    for _ in range(times):
        process.send_signal(signal.SIGTERM)
    for i, connection in enumerate(streams):
        event = last_event(answer(connection))
        assert (event["type"], event["output"]) == ("refinement.completed", f"draft {i}")
        assert event["refinement"]["stop_reason"] == "deadline"
    for i, connection in enumerate(plain):
        head, _, body = answer(connection).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 ")
        assert (json.loads(body)["output"], json.loads(body)["refinement"]["stop_reason"]) == (f"draft {i}", "deadline")
    assert process.wait(30) in (0, -signal.SIGTERM)
    assert process.stderr.read() == ""
