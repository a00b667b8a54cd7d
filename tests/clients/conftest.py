from collections.abc import Iterator

import pytest
from starlette.types import Receive, Scope, Send

from tests.clients.caller import Caller
from tests.clients.fakes import FakeServer, live


class Stage:
    """One listening server for the whole run, since starting one takes longer than a test; each test sets its fake."""

    fake: FakeServer
    url: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.fake.app(scope, receive, send)


@pytest.fixture(scope="session")
def stage() -> Iterator[Stage]:
    stage = Stage()
    with live(stage) as stage.url:
        yield stage


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLHF_BASE_URL", "SLHF_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def fake() -> FakeServer:
    return FakeServer()


@pytest.fixture
def url(fake: FakeServer, stage: Stage) -> str:
    """The base URL of `fake` on a real port."""
    stage.fake = fake
    return stage.url


@pytest.fixture(params=["sync", "async"])
def caller(request: pytest.FixtureRequest) -> Caller:
    return Caller(request.param)
