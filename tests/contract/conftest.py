"""Two servers for all tests of a module: one with the fake engine alone, one whose Leader is an upstream."""

from collections.abc import Iterator

import pytest

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.contract.test_upstream_leader import GOOD, settings
from tests.server.models.upstream.faulty import Faulty, upstream


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture(scope="module")
def url(engine: FakeEngine) -> Iterator[str]:
    with running(create_app(Settings(), engine.open)) as base:
        yield base


@pytest.fixture(scope="module")
def cloud() -> Iterator[Faulty]:
    with upstream(GOOD) as server:
        yield server


@pytest.fixture(scope="module")
def led(cloud: Faulty) -> Iterator[str]:
    """A server whose Leader is the upstream."""
    with running(create_app(Settings(**settings(cloud)), FakeEngine().open)) as base:
        yield base
