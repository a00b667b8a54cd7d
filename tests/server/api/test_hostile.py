"""10,000 hostile connections, 1,000 at once, from a second process: the server stays small and goes on answering.

Memory is the server's resident set (VmRSS in /proc), looked at every time `/health` has answered, while the attack runs
and after it. It is compared with the resident set after a warm-up of ordinary requests on 200 connections, so that what
is imported and allocated once does not count. The sockets' own buffers are the kernel's and no part of it.
"""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.server.api.hostile_load import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(280)]
MOST_GROWTH_MB = 30
MINE = {"Authorization": "Bearer right"}


class Hostage:
    """The server's process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout
        self.process = process
        self.port = int(process.stdout.readline())
        self.url = f"http://127.0.0.1:{self.port}"

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith("VmRSS:")]
        return int(line.split()[1]) / 1024

    def warm_up(self) -> None:
        with ExitStack() as stack:
            clients = [stack.enter_context(httpx2.Client(base_url=self.url, headers=MINE)) for _ in range(200)]
            for client in clients:
                assert client.post("/v1/refine", json={"prompt": "x", "draft": "y" * 10_000}).status_code == 200


@pytest.fixture
def hostage() -> Iterator[Hostage]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 2500:
        pytest.skip(f"1,000 connections at once need more than {soft} open files (ulimit -n)")
    command = [sys.executable, str(Path(__file__).with_name("hostile_server.py")), "1.5"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        hostage = Hostage(process)
        hostage.warm_up()
        yield hostage
        process.communicate(timeout=30)
        assert process.returncode in (0, -15)


def attacked(hostage: Hostage, total: int, kinds: list[str]) -> tuple[dict[str, dict[str, int]], float, list[float]]:
    """How connections ended, the growth of the resident set in MB, and how long each `/health` took."""
    before, peak, took = hostage.resident_mb(), 0.0, []
    command = [sys.executable, str(Path(__file__).with_name("hostile_load.py")), str(hostage.port), str(total), "1000"]
    with (
        subprocess.Popen([*command, *kinds], stdout=subprocess.PIPE, text=True) as load,
        httpx2.Client(base_url=hostage.url, timeout=20) as http,
    ):
        while load.poll() is None:
            started = time.monotonic()
            assert http.get("/health").status_code == 200
            took.append(time.monotonic() - started)
            peak = max(peak, hostage.resident_mb())
        assert load.stdout
        ends: dict[str, dict[str, int]] = json.loads(load.stdout.read())
    return ends, max(peak, hostage.resident_mb()) - before, took


def report(**figures: Any) -> None:
    sys.stdout.write(f"\n{figures}\n")


def test_ten_thousand_hostile_connections_cost_little_memory(hostage: Hostage) -> None:
    ends, growth, took = attacked(hostage, 10_000, list(KINDS))
    took.sort()
    report(
        growth_mb=round(growth, 1),
        health_p50_ms=took[len(took) // 2] * 1e3,
        health_p99_ms=took[-len(took) // 100] * 1e3,
    )
    for kind, counts in ends.items():
        report(kind=kind, **counts)
    assert sum(map(sum, (counts.values() for counts in ends.values()))) == 10_000
    assert growth <= MOST_GROWTH_MB
    assert httpx2.post(f"{hostage.url}/v1/refine", json={"prompt": "x"}, headers=MINE).status_code == 200


@pytest.mark.parametrize(
    "kind",
    [
        "a head that stops before its limit",
        "many small fields that stop",
        "a large body without a key",
        "a large head, refused and kept",
        "a pipeline behind a body that stops",
    ],
)
def test_a_thousand_of_one_kind_at_once_cost_little_memory(hostage: Hostage, kind: str) -> None:
    _, growth, took = attacked(hostage, 1_000, [kind])
    report(kind=kind, growth_mb=round(growth, 1), health_max_ms=max(took) * 1e3)
    assert growth <= MOST_GROWTH_MB
