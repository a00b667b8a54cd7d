"""The real application on a real Ray cluster on this machine, with the fake model at 50 ms a round.

scripts/deploy-checks makes Ray's environment and names its Python in RAY_PYTHON; without it these tests are skipped.
They print their figures.
"""

import itertools
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import pytest

from slhf import Client, SLHFError
from tests.deploy.scaleout.conftest import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

ONE_AT_A_TIME = {"limits": {"running": 1}, "log_level": "error"}
"""A replica plays one refinement at a time: draft and one round, 100 ms, so it answers at most 10 in a second."""
CLIENTS = 8


@dataclass
class Load:
    """What clients saw who ask again at once, each for its next answer."""

    answers: list[tuple[float, str]] = field(default_factory=list)
    """When, and by which process."""
    asked: int = 0
    failures: list[str] = field(default_factory=list)
    """What the client's own retries did not hide; the request was then made anew."""
    lost: int = 0

    @property
    def per_second(self) -> float:
        times = [at for at, _ in self.answers]
        return (len(times) - 1) / (max(times) - min(times))

    @property
    def replicas(self) -> Counter[str]:
        return Counter(pid for _, pid in self.answers)


@dataclass
class Clients:
    url: str
    load: Load = field(default_factory=Load)
    ended: threading.Event = field(default_factory=threading.Event)

    def ask(self, client: Client) -> None:
        """An answer, or another attempt where it failed, or one that is lost."""
        self.load.asked += 1
        for _ in range(2):
            try:
                answer = client.refine("question", rounds=1, max_tokens=16)
            except SLHFError as exc:
                self.load.failures.append(f"{type(exc).__name__}: {exc}"[:200])
                continue
            self.load.answers.append((time.monotonic(), answer.output))
            return
        self.load.lost += 1

    def run(self, most: int) -> Load:
        """`most` requests, or fewer where `ended` is set before."""
        numbers = itertools.count()

        def one(_: int) -> None:
            with Client(self.url) as client:
                while not self.ended.is_set() and next(numbers) < most:
                    self.ask(client)

        with ThreadPoolExecutor(CLIENTS) as threads:
            list(threads.map(one, range(CLIENTS)))
        return self.load


def throughput(cluster: Cluster, replicas: int) -> float:
    """Requests in a second; the first ones find the replicas."""
    cluster.deploy(replicas, ONE_AT_A_TIME)
    Clients(cluster.url).run(2 * CLIENTS)
    load = Clients(cluster.url).run(60 * replicas)
    assert (load.failures, len(load.replicas)) == ([], replicas)
    return load.per_second


def test_two_replicas_answer_almost_twice_as_much_as_one(cluster: Cluster) -> None:
    one, two = throughput(cluster, 1), throughput(cluster, 2)
    figures = f"one replica {one:.1f} requests/s, two {two:.1f}: {two / one:.2f} times as much"
    print(f"\n{figures}")  # noqa: T201  a figure that the test is for
    assert two >= 1.8 * one, figures


def test_a_replica_that_is_killed_under_load_loses_no_answer(cluster: Cluster) -> None:
    cluster.deploy(2, ONE_AT_A_TIME)
    clients = Clients(cluster.url)
    with ThreadPoolExecutor(1) as background:
        running = background.submit(clients.run, 2000)
        assert await_replicas(clients, 2)
        before = set(clients.load.replicas)
        killed = time.monotonic()
        os.kill(int(min(before)), signal.SIGKILL)
        recovered = await_replicas(clients, 3)
        clients.ended.set()
        load = running.result()
    assert recovered
    first = min(at for at, pid in load.answers if pid not in before)
    print(f"\n{load.asked} requests, repeated: {load.failures}; a new replica answered {first - killed:.1f} s later")  # noqa: T201
    assert (load.lost, len(load.answers)) == (0, load.asked)


def test_new_settings_are_rolled_out_without_a_failed_request(cluster: Cluster) -> None:
    cluster.deploy(2, ONE_AT_A_TIME)
    clients = Clients(cluster.url)
    with ThreadPoolExecutor(1) as background:
        running = background.submit(clients.run, 4000)
        assert await_replicas(clients, 2)
        seconds = cluster.deploy(2, ONE_AT_A_TIME | {"speculation": "off"})
        seen = len(clients.load.replicas)
        renewed = await_replicas(clients, max(4, seen))
        clients.ended.set()
        load = running.result()
    print(f"\n{load.asked} requests while two replicas were replaced in {seconds:.1f} s")  # noqa: T201
    assert renewed
    assert (load.failures, load.lost) == ([], 0)


def test_streams_pass_and_an_application_has_a_path_of_its_own(cluster: Cluster) -> None:
    cluster.deploy(1, ONE_AT_A_TIME)
    with Client(cluster.url) as client:
        events = [event.type for event in client.stream("question", rounds=1)]
    assert events[0] == "round.started"
    assert events[-1] == "refinement.completed"
    models = httpx2.get(f"{cluster.url}/v1/models").json()
    assert [model["id"] for model in models["data"]] == ["fake"]


def test_a_replica_shows_its_own_metrics(cluster: Cluster) -> None:
    cluster.deploy(1, ONE_AT_A_TIME)
    page = httpx2.get(f"http://127.0.0.1:{cluster.metrics_port}/metrics").text
    assert "slhf_num_requests_running" in page
    assert "python_gc_objects_collected_total" in page


def successes(page: str) -> float:
    lines = [line for line in page.splitlines() if line.startswith("slhf_request_success_total{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def answered_by(cluster: Cluster, replicas: int) -> list[float]:
    """Refinements that each replica has ended; a page that is not there counts none."""
    found = []
    for port in range(cluster.metrics_port, cluster.metrics_port + replicas):
        try:
            found.append(successes(httpx2.get(f"http://127.0.0.1:{port}/metrics").text))
        except httpx2.ConnectError:
            found.append(0.0)
    return found


def test_two_real_engines_share_the_load_and_lose_nothing_when_one_is_killed(cluster: Cluster, builtin: Path) -> None:
    if not os.environ.get("RAY_ENGINE"):
        pytest.skip("RAY_ENGINE is not set: scripts/deploy-checks --engine installs vLLM beside Ray")
    real = {"bundle": str(builtin), "engine": {"max_model_len": 512, "kv_cache_memory_bytes": 256 << 20}}
    started = cluster.deploy(2, real | {"log_level": "error"}, engine=True)
    clients = Clients(cluster.url)
    with ThreadPoolExecutor(1) as background:
        running = background.submit(clients.run, 100_000)
        assert until(lambda: min(answered_by(cluster, 2)) > 4), answered_by(cluster, 2)
        before = {file for file in cluster.log.parent.iterdir() if file.name.isdigit()}
        killed, count = time.monotonic(), len(clients.load.answers)
        os.kill(int(min(before).name), signal.SIGKILL)
        others = until(lambda: len(clients.load.answers) > count + CLIENTS)
        renewed = until(
            lambda: any(file.name.isdigit() and file not in before for file in cluster.log.parent.iterdir())
        )
        seconds = time.monotonic() - killed
        clients.ended.set()
        load = running.result()
    print(f"\nready in {started:.0f} s; {load.asked} requests, {len(load.failures)} attempts failed; {seconds:.0f} s")  # noqa: T201
    assert others
    assert renewed
    assert (load.lost, len(load.answers)) == (0, load.asked)
    assert all(answer.strip() for _, answer in load.answers)


def until(holds: Callable[[], bool], seconds: float = 240) -> bool:
    """Whether it held in time."""
    give_up = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < give_up:
        threading.Event().wait(0.2)
    return held


def await_replicas(clients: Clients, count: int, seconds: float = 120) -> bool:
    """Whether answers of so many processes have come in time."""
    return until(lambda: len(clients.load.replicas) >= count, seconds)
