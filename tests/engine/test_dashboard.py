"""Grafana's dashboard *Engine* on a real Prometheus that has scraped real vLLM."""

from pathlib import Path

import httpx2
import pytest

from tests.deploy.monitoring import dashboards
from tests.deploy.monitoring.prometheus import watching
from tests.engine.conftest import LiveServer
from tests.server.conftest import eventually

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

DRAFT = "The Rhine, the Elbe and the Oder are rivers. The Rhine, the Elbe and the Oder end in the sea."


def refine(live: LiveServer) -> None:
    """Twice the same: the second meets the prefix cache, and both guess from the draft."""
    body = {"prompt": "Name three rivers.", "draft": DRAFT, "rounds": 2, "max_tokens": 24, "temperature": 0}
    for _ in range(2):
        httpx2.post(f"{live.url}/v1/refine", json=body, timeout=300).raise_for_status()


def test_no_panel_is_empty_and_no_metric_of_vllm_unknown(live: LiveServer, tmp_path: Path) -> None:
    refine(live)
    with watching(live.url, tmp_path) as prometheus:
        refine(live)
        prometheus.await_scrapes(2)
        assert eventually(lambda: not dashboards.empty(prometheus, "engine")), dashboards.empty(prometheus, "engine")
        exprs = [expr for _, expr in dashboards.queries("engine")]
        assert dashboards.unknown(prometheus, [*exprs, *dashboards.marks("engine")]) == set()
        offered = {one.name: prometheus.values(one.label, one.metric) for one in dashboards.variables("engine")[2:]}
        assert offered["engine_model"]
        assert offered["engine"]
