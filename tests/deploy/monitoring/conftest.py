"""A server with a fake engine under load, and a real Prometheus that watches it."""

from collections.abc import Iterator

import pytest

from tests.deploy.monitoring.prometheus import Prometheus, watching
from tests.deploy.monitoring.traffic import ADMIN, busy_server, one_of_each


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """Every counter has grown between two scrapes: a rate needs that."""
    with busy_server() as url:
        one_of_each(url)
        with watching(url, tmp_path_factory.mktemp("prometheus"), ADMIN) as prometheus:
            one_of_each(url)
            prometheus.await_scrapes(3)
            yield prometheus
