"""Nothing that a client sends may hold the event loop for 50 ms, in a server in its own process, with a heartbeat."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

from benchmarks.hostile_inputs import INPUTS, Hostile

ROOT = Path(__file__).parents[2]
MOST_S = 0.050
TRIES = 3  # what holds the loop does it each time; another process of a busy machine does not


@dataclass
class Beating:
    process: "subprocess.Popen[str]"
    http: httpx2.Client

    def send(self, hostile: Hostile) -> httpx2.Response:
        method = "GET" if hostile.body is None else "POST"
        return self.http.request(method, hostile.path, content=hostile.body)

    def longest_gap(self) -> float:
        """Of the loop since the last time it was asked."""
        assert self.process.stdout is not None
        os.kill(self.process.pid, signal.SIGUSR1)
        return float(self.process.stdout.readline())


@pytest.fixture(scope="module")
def beating() -> Iterator[Beating]:
    command = [sys.executable, "-m", "tests.server.hostile_server"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        transport = httpx2.HTTPTransport(retries=5)
        with httpx2.Client(base_url=url, timeout=60, transport=transport) as http:
            yield Beating(process, http)
        process.terminate()
        process.wait(30)


@pytest.mark.parametrize("hostile", INPUTS, ids=[hostile.name for hostile in INPUTS])
def test_nothing_holds_the_loop(beating: Beating, hostile: Hostile) -> None:
    assert hostile.body is None or len(hostile.body) <= 4 << 20
    gaps = []
    for _ in range(TRIES):
        beating.longest_gap()
        answer = beating.send(hostile)
        assert answer.status_code == 200 or 400 <= answer.status_code < 500, answer.text[:500]
        gaps.append(beating.longest_gap())
        if gaps[-1] <= MOST_S:
            break
    assert min(gaps) <= MOST_S, gaps
    assert answer.status_code == 200 or len(answer.content) < 3_000  # an error does not send back what it was sent
