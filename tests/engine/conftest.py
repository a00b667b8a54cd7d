"""The real server: `slhf-server` in its own process, real vLLM on this machine's device, real weights."""

import contextlib
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest

START_S = 240


@dataclass
class LiveServer:
    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        page = httpx2.get(f"{self.url}/metrics", timeout=30).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in page.splitlines() if re.match(rf"{name}[{{ ]", line))

    def processes(self) -> set[int]:
        """The server's process and all its descendants."""
        family = {self.process.pid}
        for _ in range(5):
            for stat in Path("/proc").glob("[0-9]*/stat"):
                with contextlib.suppress(OSError):
                    if int(stat.read_text().rsplit(")", 1)[1].split()[1]) in family:
                        family.add(int(stat.parent.name))
        return family


@contextlib.contextmanager
def live_server(tmp: Path, *flags: str) -> Iterator[LiveServer]:
    """Start `slhf-server` with these flags on a free port, wait until it is ready, and end it."""
    log = tmp / "server.log"
    command = [str(Path(sys.executable).with_name("slhf-server")), "--port", "0", *flags]
    with log.open("wb") as file:
        server = LiveServer(subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT), log)
    try:
        wait_until_ready(server)
        yield server
    finally:
        server.process.send_signal(signal.SIGTERM)
        try:
            server.process.wait(60)
        except subprocess.TimeoutExpired:
            server.process.kill()
            raise


def wait_until_ready(server: LiveServer) -> None:
    give_up = time.monotonic() + START_S
    while time.monotonic() < give_up:
        if server.process.poll() is not None:
            raise AssertionError(f"the server ended:\n{server.log.read_text()}")
        if found := re.search(r"listening on (http://[^\s\"]+)", server.log.read_text()):
            server.url = found[1]
            with contextlib.suppress(httpx2.TransportError):
                if httpx2.get(f"{server.url}/ready").status_code == 200:
                    return
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.process.wait(0.2)
    raise AssertionError(f"not ready within {START_S} s:\n{server.log.read_text()}")


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """The built-in bundle as `scripts/serve` serves it; started once per session."""
    with live_server(tmp_path_factory.mktemp("live")) as server:
        yield server
