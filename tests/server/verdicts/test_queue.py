"""The queue of a shadow: what it drops, when it gives way, how it ends. The Follower takes forever."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from slhf.history import Message
from slhf.wire import RefineOptions
from slhf_server.app import create_app
from slhf_server.models.base import SamplingParams
from slhf_server.models.fake import FakeEngine, FakeModel, improve
from slhf_server.refinement.planner import RefineParams
from slhf_server.service import Service
from slhf_server.settings.server import Settings
from slhf_server.verdicts import shadow
from slhf_server.verdicts.shadow import MOST_WAITING
from tests.conftest import until
from tests.server.conftest import Play
from tests.server.verdicts.judged import judging_engine, shadowed


@asynccontextmanager
async def running(engine: FakeEngine, folder: Path, **shadow: Any) -> AsyncGenerator[Service, None]:
    app = create_app(Settings(**shadowed(folder, **shadow)), engine.open)
    async with app.router.lifespan_context(app):
        service: Service = app.state.service
        await service.loading()
        yield service


async def answered(service: Service, number: int, draft: str | None = "a draft") -> str:
    """A request's whole answer."""
    messages, options = [Message(role="user", content="x")], RefineOptions(draft=draft)
    params = RefineParams("refine", f"r{number}", None, messages, options, SamplingParams(), "none")
    events = [event async for _, event in service.run(service.planner().plan(params))]
    return str(events[-1].text)  # type: ignore[union-attr]


def metric(service: Service, name: str, **labels: str) -> float:
    return service.metrics.registry.get_sample_value(name, {"model_name": "fake", **labels}) or 0.0


def endless() -> FakeEngine:
    engine = judging_engine()
    engine.follower = FakeModel("fake", improve, token_seconds=10_000, max_model_len=4096)
    return engine


def test_what_there_is_no_room_for_is_dropped_and_no_client_waits(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        engine = endless()
        async with running(engine, tmp_path, concurrent=2) as service:
            for number in range(2 + MOST_WAITING + 3):
                assert await answered(service, number) == "a draft"
            await until(lambda: engine.follower.running == 2)
            assert metric(service, "slhf_shadow_queue") == MOST_WAITING
            assert metric(service, "slhf_shadow_total", result="dropped", reason="queue_full") == 3

    play(scenario())


def test_a_shutdown_drops_all_of_it_without_delay(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        engine = endless()
        async with running(engine, tmp_path, concurrent=1) as service:
            for number in range(3):
                await answered(service, number)
            await until(lambda: engine.follower.running == 1)
        assert engine.follower.running == 0
        assert metric(service, "slhf_shadow_total", result="dropped", reason="shutdown") == 3

    play(scenario())


def test_a_server_that_drains_begins_nothing_more_in_the_shadow(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        engine = endless()
        async with running(engine, tmp_path, concurrent=1) as service:
            await answered(service, 1)
            await until(lambda: engine.follower.running == 1)
            last = asyncio.create_task(answered(service, 2))
            await asyncio.sleep(0)  # it is planned
            service.drain(10)
            assert await last == "a draft"
            await until(lambda: engine.follower.running == 0)
            assert len(engine.follower.calls) == 1
            assert metric(service, "slhf_shadow_total", result="dropped", reason="shutdown") == 2

    play(scenario())


def test_when_idle_it_gives_way_to_a_request_and_begins_again(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        engine = endless()
        engine.leader = FakeModel("fake", improve, token_seconds=0.01, max_model_len=4096)
        async with running(engine, tmp_path, when_idle=True, concurrent=1) as service:
            await answered(service, 1)
            await until(lambda: engine.follower.running == 1)
            other = asyncio.create_task(answered(service, 2, draft=None))
            await until(lambda: metric(service, "slhf_shadow_queue") == 1)
            assert engine.follower.running == 0
            assert not other.done()
            assert await other == "draft of: x"
            await until(lambda: engine.follower.running == 1)
            assert [turns[-2].text for turns, _ in engine.follower.calls] == ["a draft", "a draft"]
            assert metric(service, "slhf_shadow_queue") == 1

    play(scenario())


def test_when_idle_what_was_given_up_too_often_is_dropped(
    tmp_path: Path, play: Play, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow, "MOST_ATTEMPTS", 2)

    async def scenario() -> None:
        engine = endless()
        async with running(engine, tmp_path, when_idle=True, concurrent=1, verdicts=1) as service:
            for number in (1, 2):  # of these the first alone is taken: one verdict is wanted
                await answered(service, number)
                await until(lambda: len(engine.follower.calls) == number)  # noqa: B023  asked at once
            await answered(service, 3)
            await until(lambda: metric(service, "slhf_shadow_total", result="dropped", reason="interrupted") == 1)
            assert (engine.follower.running, metric(service, "slhf_shadow_queue")) == (0, 0)

    play(scenario())


def test_without_that_it_goes_on_beside_a_request(tmp_path: Path, play: Play) -> None:
    async def scenario() -> None:
        engine = endless()
        async with running(engine, tmp_path, concurrent=1) as service:
            await answered(service, 1)
            await until(lambda: engine.follower.running == 1)
            await answered(service, 2)
            assert engine.follower.running == len(engine.follower.calls) == 1

    play(scenario())
