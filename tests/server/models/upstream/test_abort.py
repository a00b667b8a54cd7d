"""Whoever stops reading ends the request over there."""

import asyncio

import pytest

from slhf_server.deadline import Deadline
from slhf_server.errors import DeadlineExceeded
from slhf_server.models.base import SamplingParams
from tests.server.conftest import Play
from tests.server.models.upstream.faulty import error, hello, pieces, silent
from tests.server.models.upstream.stage import ASK, staged


def test_closing_the_stream_closes_the_connection(play: Play) -> None:
    async def scenario() -> None:
        async with staged(silent(*pieces("Hello")[:-1]), hello(), max_concurrent=1) as stage:
            chunks = stage.upstream.stream(ASK, SamplingParams(), request_id="r")
            assert (await anext(chunks)).text == "Hello"
            assert stage.server.connections == 1
            await chunks.aclose()
            await stage.server.until_connections(0)
            assert await stage.ask()  # and its place is free

    play(scenario())


@pytest.mark.parametrize("deltas", [True, False])
def test_cancelling_before_the_first_byte_closes_the_connection(play: Play, deltas: bool) -> None:
    async def scenario() -> None:
        async with staged(silent()) as stage:
            asking = asyncio.create_task(stage.ask(deltas=deltas))
            await stage.server.until_asked(1)
            asking.cancel()
            await stage.server.until_connections(0)
            with pytest.raises(asyncio.CancelledError):
                await asking

    play(scenario())


@pytest.mark.parametrize("begun", [True, False])
def test_a_deadline_that_passes_closes_the_connection(play: Play, begun: bool) -> None:
    async def scenario() -> None:
        async with staged(silent(*pieces("Hello")[:-1] if begun else ())) as stage:
            completion = stage.upstream.stream(ASK, SamplingParams(), request_id="r")
            with pytest.raises(DeadlineExceeded):
                async for _ in Deadline.after(0.2).within(completion):
                    pass
            await stage.server.until_connections(0)
            assert len(stage.server.asked) == 1
            assert stage.count("slhf_upstream_breaker_open") == 0

    play(scenario())


def test_a_finished_answer_leaves_no_connection_in_use(play: Play) -> None:
    async def scenario() -> None:
        async with staged(hello(), error(400), error(500), error(500), hello()) as stage:
            assert await stage.ask()
            await stage.server.until_connections(0)

    play(scenario())
