"""`/ready` waits for each upstream's first answer."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import httpx2
import pytest

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.endpoints import UpstreamSettings
from slhf_server.settings.server import ServedModel, Settings
from tests.server.conftest import Play
from tests.server.models.upstream.faulty import Faulty, Reply, error, held, says, serving, silent
from tests.server.models.upstream.stage import staged


@asynccontextmanager
async def app_with(server: Faulty) -> AsyncGenerator[httpx2.AsyncClient, None]:
    upstreams = {"cloud": UpstreamSettings.model_validate({"base_url": server.url, "model": "big"})}
    app = create_app(Settings(upstreams=upstreams, models={"m": ServedModel(leader="cloud")}), FakeEngine().open)
    async with (
        app.router.lifespan_context(app),
        httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://x") as http,
    ):
        await app.state.service.loading()
        yield http


def test_the_server_is_ready_once_the_upstream_has_answered(play: Play) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with serving(held(gate, says({"data": []})), error(500)) as server, app_with(server) as http:
            await server.until_asked(1)
            answer = await http.get("/ready")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "upstream_unavailable")
            assert "'cloud'" in answer.json()["error"]["message"]
            assert int(answer.headers["retry-after"]) > 0
            gate.set()
            for _ in range(1000):
                await asyncio.sleep(0)  # in process, a request alone does not let the probe go on
                if (answer := await http.get("/ready")).status_code == 200:
                    break
            assert answer.status_code == 200
            assert [asked.line for asked in server.asked] == ["GET /v1/models HTTP/1.1"]
            assert 'slhf_upstream_breaker_open{upstream="cloud"} 0.0' in (await http.get("/metrics")).text

    play(scenario())


def test_an_upstream_that_never_answers_does_not_keep_the_server_from_ending(play: Play) -> None:
    async def scenario() -> None:
        async with serving(silent()) as server:
            async with app_with(server) as http:
                await server.until_asked(1)
                assert (await http.get("/ready")).status_code == 503
            await server.until_connections(0)

    play(scenario())


@pytest.mark.parametrize(
    ("reply", "answered"),
    [
        (says({"data": []}), True),
        (error(404), True),
        (error(429), True),
        (error(401), False),
        (error(403), False),
        (error(500), False),
        (error(302, Location="http://127.0.0.1:1/v1/models"), False),
    ],
)
def test_any_answer_counts_but_a_refused_key_a_redirect_and_an_error(play: Play, reply: Reply, answered: bool) -> None:
    async def scenario() -> None:
        async with staged(reply) as stage:
            assert await stage.upstream.probe() is answered
            assert stage.upstream.answered is answered

    play(scenario())


def test_probes_come_at_growing_pauses_up_to_five_seconds(play: Play) -> None:
    async def scenario() -> None:
        async with staged(*[error(500)] * 8, says({"data": []})) as stage:
            await stage.upstream.await_answer()
            assert stage.slept == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
            assert stage.upstream.answered

    play(scenario())
