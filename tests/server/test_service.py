"""The service's watch over the engine, with the fake one."""

import asyncio
import inspect
import socket
import sys
from collections.abc import AsyncGenerator, Sequence
from types import FrameType

import uvicorn

from slhf.history import Message
from slhf.wire import RefineOptions
from slhf_server.app import create_app
from slhf_server.cli import Server
from slhf_server.errors import EngineUnavailable
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, FakeModel
from slhf_server.refinement.planner import RefineParams
from slhf_server.service import Service
from slhf_server.settings.server import Settings
from tests.server.conftest import Play


def test_a_server_whose_engine_dies_ends_by_itself_and_knows_why() -> None:
    engine = FakeEngine()
    app = create_app(Settings(port=0), engine.open)
    service = app.state.service
    server = Server(uvicorn.Config(app, log_config=None), service)
    engine.dead = True
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(asyncio.wait_for(server.serve(sockets=[listener]), 30))
    assert isinstance(service.failure, EngineUnavailable)
    assert engine.was_shut_down


class Counting(FakeModel):
    """Notes which generators wait for a token of it."""

    def __init__(self) -> None:
        super().__init__("counting", lambda turns: "one two three", token_seconds=0, max_model_len=100)
        self.waiting: set[tuple[str, ...]] = set()

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        async for chunk in super().stream(turns, sampling, request_id=request_id, deltas=deltas):
            self.waiting.add(tuple(generators()))
            yield chunk


def generators() -> list[str]:
    """The async generators of the server through which this task asks for the next item, the nearest first."""
    names: list[str] = []
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        if frame.f_code.co_flags & inspect.CO_ASYNC_GENERATOR and "slhf_server" in frame.f_code.co_filename:
            names.append(frame.f_code.co_name)
        frame = frame.f_back
    return names


def test_a_token_passes_two_generators_between_the_model_and_the_stream_that_is_sent(play: Play) -> None:
    """With the model's own and the one that writes frames (`_frames`, which asks from another task) these are four."""
    engine, leader = FakeEngine(), Counting()
    engine.leader = leader

    async def scenario() -> None:
        app = create_app(Settings(), engine.open)
        service: Service = app.state.service
        async with app.router.lifespan_context(app):
            await service.loading()
            messages, options = [Message(role="user", content="x")], RefineOptions(rounds=0)
            params = RefineParams("chat", "1", None, messages, options, SamplingParams(), "all")
            events = [event async for event in service.run(service.planner().plan(params))]
            assert len(events) > 3
        assert leader.waiting == {("refine", "run")}

    play(scenario())
