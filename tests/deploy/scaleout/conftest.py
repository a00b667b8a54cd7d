"""Ray's own environment, in which the shipped application runs on a local cluster."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.programs import DEPLOY, ROOT


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Cluster:
    """cluster.py in Ray's environment, told what to deploy."""

    def __init__(self, python: str, log: Path) -> None:
        folders = (DEPLOY / "ray", Path(__file__).parent, ROOT / "server", ROOT / "clients" / "python")
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLHF_", "RAY_", "PYTHON"))}
        variables = {
            "PYTHONPATH": os.pathsep.join(map(str, folders)),
            "RAY_AUTH_MODE": "disabled",  # else a token is left in the user's home
            "RAY_USAGE_STATS_ENABLED": "0",
            "PYTHONWARNINGS": "ignore",
            "REPLICAS": str(log.parent),
        }
        self.log = log
        with log.open("w") as stderr:
            self.process = subprocess.Popen(
                [python, str(Path(__file__).with_name("cluster.py"))],
                env=kept | variables,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )
        self.port, self.metrics_port = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.port}/fake"

    def deploy(self, replicas: int, settings: dict[str, Any], *, engine: bool = False) -> float:
        """Seconds until every replica is healthy."""
        assert self.process.stdin
        assert self.process.stdout
        ports = {"port": self.port, "metrics_port": self.metrics_port}
        order = ports | {"replicas": replicas, "settings": settings, "engine": engine}
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.log.read_text()[-4000:]
        return float(json.loads(answer)["deployed_s"])

    def end(self) -> None:
        self.process.communicate(timeout=120)  # closes its input


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    python = os.environ.get("RAY_PYTHON")
    if python is None:
        pytest.skip("RAY_PYTHON names no Python with Ray: scripts/deploy-checks makes one")
    cluster = Cluster(python, tmp_path_factory.mktemp("ray") / "stderr")
    yield cluster
    cluster.end()
