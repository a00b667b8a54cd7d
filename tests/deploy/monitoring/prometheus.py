"""A real Prometheus with the configuration and the rules of deploy/, for as long as a block runs."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from tests.server.conftest import eventually
from tests.server.models.upstream.faulty import free_port

ROOT = Path(__file__).parents[3]
CONFIGURATION = ROOT / "deploy" / "prometheus" / "prometheus.yml"
RULES = CONFIGURATION.parent / "rules"
INTERVAL = "2s"  # between scrapes, and the most that one may take: a busy machine needs some time

Labels = dict[str, str]


def program(name: str) -> str:
    """`prometheus` or `promtool`: the system's, or what scripts/prometheus has unpacked. Skips the test without."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "slhf" / "prometheus" / "usr" / "bin"
    found = shutil.which(name) or shutil.which(name, path=str(cache))
    if found is None:
        pytest.skip(f"{name} is not here: scripts/prometheus fetches it")
    return found


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([program("promtool"), *arguments], capture_output=True, text=True, timeout=200)


class Prometheus:
    """Its HTTP API."""

    def __init__(self, url: str) -> None:
        self._http = httpx2.Client(base_url=url, timeout=30)

    def get(self, path: str, **parameters: Any) -> Any:
        answer = self._http.get(f"/api/v1/{path}", params=parameters).json()
        assert answer["status"] == "success", (parameters, answer)
        return answer["data"]

    def query(self, expr: str) -> list[tuple[Labels, float]]:
        """Labels and values now."""
        return [(one["metric"], float(one["value"][1])) for one in self.get("query", query=expr)["result"]]

    def range(self, expr: str, start: float, end: float, step: float) -> list[tuple[Labels, list[tuple[float, float]]]]:
        found = self.get("query_range", query=expr, start=start, end=end, step=step)["result"]
        return [(one["metric"], [(at, float(value)) for at, value in one["values"]]) for one in found]

    def values(self, label: str, *metrics: str) -> list[str]:
        """Of a label, in these metrics or in all."""
        found: list[str] = self.get(f"label/{label}/values", **({"match[]": metrics} if metrics else {}))
        return found

    def labels(self) -> dict[str, set[str]]:
        """The labels of every metric of our job."""
        found: dict[str, set[str]] = {}
        for series in self.get("series", **{"match[]": '{job="slhf"}'}):
            found.setdefault(series["__name__"], set()).update(series.keys() - {"__name__"})
        return found

    def await_scrapes(self, count: int) -> None:
        """Until every target has been scraped so often from now on."""
        begun = self._scrapes()
        assert eventually(lambda: self._scrapes() >= begun + count, 60), "Prometheus does not scrape"

    def _scrapes(self) -> float:
        return min((value for _, value in self.query("count_over_time(slhf_build_info[1h])")), default=0)

    def ready(self) -> bool:
        try:
            return self._http.get("/-/ready").status_code == 200
        except httpx2.TransportError:
            return False

    def close(self) -> None:
        self._http.close()


def configuration(target: str, key: str | None = None) -> dict[str, Any]:
    """The shipped one, faster, for a server elsewhere, whose metrics may need a key."""
    shipped: dict[str, Any] = yaml.safe_load(CONFIGURATION.read_text(encoding="utf-8"))
    shipped["global"] |= {"scrape_interval": INTERVAL, "evaluation_interval": INTERVAL}
    shipped["rule_files"] = [str(CONFIGURATION.parent / pattern) for pattern in shipped["rule_files"]]
    [job] = shipped["scrape_configs"]
    job["static_configs"] = [{"targets": [target]}]
    if key is not None:
        job["authorization"] = {"credentials": key}
    return shipped


@contextmanager
def watching(server_url: str, folder: Path, key: str | None = None) -> Iterator[Prometheus]:
    """Prometheus, which has scraped this server at least once; its data lie in the folder."""
    file = folder / "prometheus.yml"
    file.write_text(yaml.safe_dump(configuration(server_url.removeprefix("http://"), key)), encoding="utf-8")
    address = f"127.0.0.1:{free_port()}"
    command = [program("prometheus"), f"--config.file={file}", f"--web.listen-address={address}"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--storage.tsdb.path={folder / 'data'}"], stdout=log, stderr=log)
    prometheus = Prometheus(f"http://{address}")
    try:
        assert eventually(prometheus.ready), (folder / "prometheus.log").read_text()
        prometheus.await_scrapes(1)
        yield prometheus
    finally:
        prometheus.close()
        process.terminate()
        process.wait(20)
