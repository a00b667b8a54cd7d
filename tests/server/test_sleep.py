"""Sleep and wake-up: what runs ends in the grace period with its best text, what comes is refused, nothing is lost."""

import asyncio
from pathlib import Path
from typing import Any

import httpx2
import pytest

from slhf_server.app import create_app, create_operators_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import until
from tests.server.conftest import Play
from tests.server.verdicts.judged import shadowed

ADMIN = {"Authorization": "Bearer an-operators"}


class Both:
    """The clients' application and the operators', in this process."""

    def __init__(self, engine: FakeEngine, **settings: Any) -> None:
        self.settings = Settings(admin_key="an-operators", admin_port=0, **settings)
        self.app = create_app(self.settings, engine.open)
        self.service = self.app.state.service
        self.clients = self._client(self.app)
        self.operators = self._client(create_operators_app(self.settings, self.app), headers=ADMIN)

    def _client(self, app: Any, **options: Any) -> httpx2.AsyncClient:
        return httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://server", **options)

    async def __aenter__(self) -> "Both":
        self._life = self.app.router.lifespan_context(self.app)
        await self._life.__aenter__()
        await self.service.loading()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.clients.aclose()
        await self.operators.aclose()
        await self._life.__aexit__(None, None, None)

    async def refine(self, **body: Any) -> httpx2.Response:
        return await self.clients.post("/v1/refine", json={"prompt": "x", "draft": "a draft"} | body)

    async def status(self, path: str) -> int:
        return (await self.clients.get(path)).status_code


def test_asleep_it_refuses_every_request_and_is_not_ready_until_it_is_woken(play: Play) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with Both(engine) as server:
            for _ in range(2):  # it may be asked twice
                slept = await server.operators.post("/sleep?level=1&mode=wait")
                assert (slept.status_code, slept.json(), engine.asleep) == (200, {"is_sleeping": True}, True)
            assert (await server.operators.get("/is_sleeping")).json() == {"is_sleeping": True}
            refused = await server.refine()
            assert (refused.status_code, refused.headers["retry-after"]) == (503, "5")
            assert refused.json()["error"] == {
                "message": "the engine sleeps, until an operator wakes it",
                "type": "server_error",
                "param": None,
                "code": "engine_unavailable",
            }
            assert [await server.status(path) for path in ("/ready", "/v1/models", "/health")] == [503, 503, 200]
            assert not engine.follower.calls
            for _ in range(2):
                woken = await server.operators.post("/wake_up")
                assert (woken.status_code, woken.json(), engine.asleep) == (200, {"is_sleeping": False}, False)
            assert (await server.refine()).status_code == 200
            assert await server.status("/ready") == 200

    play(scenario())


def test_what_runs_in_the_shadow_is_given_up_for_a_sleep_and_begins_again_after_it(play: Play, tmp_path: Path) -> None:
    """The fake engine refuses to be put to sleep in the middle of a completion."""

    async def scenario() -> None:
        said = iter(["word " * 100_000, *["better"] * 9])
        engine = FakeEngine(lambda turns: next(said), token_seconds=0.001)
        async with Both(engine, **shadowed(tmp_path)) as server:
            assert (await server.refine()).json()["refinement"]["stop_reason"] == "shadowed"
            await until(lambda: engine.follower.running == 1, 0.01)
            assert (await server.operators.post("/sleep")).status_code == 200
            assert engine.asleep
            assert engine.follower.running == 0
            assert (await server.operators.post("/wake_up")).status_code == 200
            await until(lambda: len(engine.follower.calls) > 1, 0.01)

    play(scenario())


def test_what_runs_and_what_waits_is_answered_in_the_grace_period_before_it_sleeps(play: Play) -> None:
    """The fake engine refuses to be put to sleep in the middle of a completion."""

    async def scenario() -> None:
        engine = FakeEngine(lambda turns: "word " * 100_000, token_seconds=0.001)
        async with Both(engine, grace_period_s=1.2, limits={"running": 1}) as server:
            running = asyncio.create_task(server.refine())
            await until(lambda: engine.follower.running == 1, 0.01)
            waiting = asyncio.create_task(server.refine())
            await until(lambda: server.service.admission.waiting.total() == 1, 0.01)
            sleeping = asyncio.create_task(server.operators.post("/sleep"))
            await until(lambda: bool(server.service.asleep), 0.01)
            assert (await server.refine()).status_code == 503
            assert not engine.asleep
            for answer in await asyncio.gather(running, waiting):
                assert (answer.status_code, answer.json()["output"]) == (200, "a draft")
                assert answer.json()["refinement"]["stop_reason"] == "deadline"
            assert (await sleeping).status_code == 200
            assert engine.asleep

    play(scenario())


def test_who_wakes_it_while_it_falls_asleep_has_it_awake_in_the_end(play: Play) -> None:
    async def scenario() -> None:
        engine = FakeEngine(lambda turns: "word " * 100_000, token_seconds=0.001)
        async with Both(engine, grace_period_s=1.2) as server:
            running = asyncio.create_task(server.refine())
            await until(lambda: engine.follower.running == 1, 0.01)
            sleeping = asyncio.create_task(server.operators.post("/sleep"))
            await until(lambda: bool(server.service.asleep), 0.01)
            assert (await server.operators.post("/wake_up")).json() == {"is_sleeping": False}
            assert [(await task).status_code for task in (running, sleeping)] == [200, 200]
            assert (engine.asleep, await server.status("/ready")) == (False, 200)

    play(scenario())


def test_an_engine_that_cannot_sleep_says_so_and_goes_on(play: Play) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        engine.sleep_obstacle = "it has no bed"
        async with Both(engine) as server:
            refused = await server.operators.post("/sleep")
            assert (refused.status_code, refused.json()["error"]["message"]) == (400, "it has no bed")
            assert (await server.refine()).status_code == 200

    play(scenario())


@pytest.mark.parametrize(("query", "param"), [("level=0", "level"), ("level=2", "level"), ("mode=abort", "mode")])
def test_vllms_other_levels_and_modes_are_refused_by_name(play: Play, query: str, param: str) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with Both(engine) as server:
            refused = await server.operators.post(f"/sleep?{query}")
            assert (refused.status_code, refused.json()["error"]["param"], engine.asleep) == (400, param, False)

    play(scenario())


def test_nobody_puts_it_to_sleep_without_the_operators_key(play: Play) -> None:
    async def scenario() -> None:
        engine = FakeEngine()
        async with Both(engine, api_keys="web=key") as server:
            for path in ("/sleep", "/wake_up"):
                answer = await server.operators.post(path, headers={"Authorization": "Bearer key"})
                assert answer.status_code == 401
            assert not engine.asleep

    play(scenario())
