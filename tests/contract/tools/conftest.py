"""A server of its own for each test, whose Leader calls tools."""

from collections.abc import Iterator

import openai
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.contract.tools.calling import calls_first, connect


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine(calls_first, calls_tools=True)


@pytest.fixture
def url(serve: Serve, engine: FakeEngine) -> str:
    return serve(engine)


@pytest.fixture
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with connect(url) as client:
        yield client
