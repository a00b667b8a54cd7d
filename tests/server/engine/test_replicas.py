"""Several servers of one remote engine: where rounds go, and what becomes of them where one dies."""

import asyncio

import pytest

from slhf_server.engine.prompt import PromptEncoder
from slhf_server.errors import (
    EngineUnavailable,
)
from slhf_server.models.base import SamplingParams
from tests.conftest import until
from tests.server.conftest import Play
from tests.server.engine.vllm_stub import (
    ASK,
    Stage,
    VLLMStub,
    always,
    events,
    serving,
    writes,
)
from tests.server.models.upstream.faulty import error, reset, silent


def test_rounds_go_to_the_least_loaded_and_a_refinement_stays(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        hold = always(silent(*events(encoder, encoder.encode(ASK), "It", end=False)))
        one, two = VLLMStub(encoder, hold), VLLMStub(encoder, writes(encoder, "4"))
        async with serving(one, two):
            stage = Stage(encoder, [one, two])
            await stage.build().await_answer()
            busy = stage.engine.follower.stream(ASK, SamplingParams(), request_id="a-1")
            await anext(busy)
            for run in ("b", "c"):
                await stage.ask(run=run)
            assert (len(one.asked), len(two.asked)) == (1, 2)
            await busy.aclose()
            one.answers = [writes(encoder, "5")]
            two.answers = [hold]
            more = stage.engine.follower.stream(ASK, SamplingParams(), request_id="d-1")  # the first: both are idle
            assert (await anext(more)).text == "5"
            await more.aclose()
            held = stage.engine.follower.stream(ASK, SamplingParams(), request_id="b-2")  # where its draft is cached
            assert (await anext(held)).text == "It"
            await held.aclose()
            await stage.engine.close()

    play(scenario())


def test_where_one_server_dies_its_refinements_go_on_at_another(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        dead, alive = VLLMStub(encoder, writes(encoder, "4")), VLLMStub(encoder, writes(encoder, "5"))
        async with serving(dead, alive):
            stage = Stage(encoder, [dead, alive])
            await stage.build(breaker_failures=1, breaker_cooldown_s=30.0).await_answer()
            assert (await stage.ask())[0].text == "4"
            dead.answers = [always(reset())]
            assert (await stage.ask())[0].text == "5"
            assert stage.slept == [0.0]  # another server is at hand: nobody waits
            for _ in range(3):
                assert (await stage.ask(run="other"))[0].text == "5"
            assert len(dead.asked) == 2
            open_now = [
                stage.metrics.get_sample_value("slhf_upstream_breaker_open", {"upstream": f"gpu/{number}"})
                for number in (0, 1)
            ]
            assert open_now == [1.0, 0.0]
            stage.now += 31.0
            dead.answers = [writes(encoder, "4")]
            assert (await stage.ask(run="third"))[0].text == "4"  # it is tried again, and is back
            await stage.engine.close()

    play(scenario())


def test_a_server_that_has_not_answered_gets_no_requests(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        late, ready = (
            VLLMStub(encoder, writes(encoder, "4"), models=error(503)),
            VLLMStub(encoder, writes(encoder, "5")),
        )
        async with serving(late, ready):
            stage = Stage(encoder, [late, ready])
            engine = stage.build()
            with pytest.raises(EngineUnavailable):
                engine.check()
            waiting = asyncio.create_task(engine.await_answer())
            await until(lambda: stage.is_ready)
            assert [(await stage.ask(run=run))[0].text for run in "abc"] == ["5", "5", "5"]
            waiting.cancel()
            await asyncio.wait([waiting])
            await engine.close()

    play(scenario())
