"""Retries, the circuit breaker, and how many requests run at once."""

import asyncio
import email.utils
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from slhf_server.deadline import Deadline
from slhf_server.errors import BadRequest, DeadlineExceeded, RequestError, UpstreamUnavailable
from tests.server.conftest import Play
from tests.server.models.upstream.faulty import HELLO, Reply, error, held, hello, pieces, reset, says, silent, streams
from tests.server.models.upstream.stage import ASK, PLAIN, Stage, staged


async def failed(stage: Stage) -> RequestError:
    with pytest.raises(RequestError) as raised:
        await stage.ask()
    return raised.value


def test_a_fault_that_passes_is_not_noticed(play: Play) -> None:
    async def scenario() -> None:
        async with staged(reset(), error(503), hello()) as stage:
            assert [chunk.text for chunk in await stage.ask()] == ["Hello", " you", ""]
            assert len(stage.server.asked) == 3
            assert stage.server.asked[0].body == stage.server.asked[2].body

    play(scenario())


@pytest.mark.parametrize("retries", [0, 1, 4])
def test_as_many_retries_are_made_as_are_set(play: Play, retries: int) -> None:
    async def scenario() -> None:
        async with staged(error(500), max_retries=retries, breaker_failures=100) as stage:
            await failed(stage)
            assert len(stage.server.asked) == retries + 1
            assert len(stage.slept) == retries

    play(scenario())


@pytest.mark.parametrize("luck", [0.0, 0.5, 1.0])
def test_pauses_are_drawn_from_zero_to_a_bound_that_doubles(play: Play, luck: float) -> None:
    async def scenario() -> None:
        async with staged(error(500), max_retries=6, breaker_failures=100) as stage:
            stage.luck = luck
            await failed(stage)
            assert stage.slept == [luck * bound for bound in (0.5, 1, 2, 4, 8, 8)]

    play(scenario())


@pytest.mark.parametrize("status", [429, 503])
def test_the_upstreams_wait_is_kept_and_spread(play: Play, status: int) -> None:
    """Those who were told the same do not come back at the same moment."""

    async def scenario() -> None:
        async with staged(error(status, Retry_After="20"), hello()) as stage:
            await stage.ask()
            assert stage.slept == [20.5]

    play(scenario())


def test_a_wait_may_be_a_date(play: Play) -> None:
    async def scenario() -> None:
        date = email.utils.formatdate(time.time() + 3600, usegmt=True)
        async with staged(error(429, Retry_After=date)) as stage:
            raised = await failed(stage)
            assert stage.slept == []
            assert raised.retry_after is not None
            assert 3500 < raised.retry_after <= 3601

    play(scenario())


def test_a_long_wait_is_told_and_not_waited_for(play: Play) -> None:
    async def scenario() -> None:
        async with staged(error(429, Retry_After="31")) as stage:
            raised = await failed(stage)
            assert (raised.retry_after, stage.slept, len(stage.server.asked)) == (31, [], 1)

    play(scenario())


@pytest.mark.parametrize("wait", ["soon", "-5", "nan", "inf", "", "1e999"])
def test_a_wait_that_means_nothing_is_passed_over(play: Play, wait: str) -> None:
    async def scenario() -> None:
        async with staged(error(429, Retry_After=wait), max_retries=1) as stage:
            raised = await failed(stage)
            assert (raised.retry_after, stage.slept) == (UpstreamUnavailable.retry_after, [0.5])

    play(scenario())


def test_the_breaker_opens_half_opens_and_closes(play: Play) -> None:
    async def scenario() -> None:
        async with staged(*[error(500)] * 4, hello(), max_retries=0, breaker_failures=3) as stage:
            for _ in range(3):
                assert stage.count("slhf_upstream_breaker_open") == 0
                await failed(stage)
            assert stage.count("slhf_upstream_breaker_open") == 1
            stage.now += 29.5
            refused = await failed(stage)
            assert isinstance(refused, UpstreamUnavailable)
            assert refused.retry_after == 1
            assert len(stage.server.asked) == 3
            assert stage.count("slhf_upstream_errors_total", error_type="breaker_open") == 1
            stage.now += 0.5
            await failed(stage)  # the one attempt that is made, in vain
            assert len(stage.server.asked) == 4
            assert (await failed(stage)).retry_after == 30
            stage.now += 30
            assert await stage.ask()
            assert await stage.ask()
            assert stage.count("slhf_upstream_breaker_open") == 0
            assert len(stage.server.asked) == 6

    play(scenario())


def test_a_half_open_breaker_admits_one_attempt_at_a_time(play: Play) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with staged(error(500), held(gate, hello()), max_retries=0, breaker_failures=1) as stage:
            await failed(stage)
            stage.now += 30
            probe = asyncio.create_task(stage.ask())
            await stage.server.until_asked(2)
            assert "left alone" in (await failed(stage)).message
            gate.set()
            assert await probe
            assert await stage.ask()

    play(scenario())


def test_an_abandoned_attempt_says_nothing_about_the_upstream(play: Play) -> None:
    async def scenario() -> None:
        async with staged(error(500), silent(), hello(), max_retries=0, breaker_failures=1) as stage:
            await failed(stage)
            stage.now += 30
            probe = asyncio.create_task(stage.ask())
            await stage.server.until_asked(2)
            probe.cancel()
            await asyncio.wait([probe])
            await failed(stage)
            stage.now += 30
            assert await stage.ask()

    play(scenario())


def test_retries_end_when_the_breaker_opens(play: Play) -> None:
    async def scenario() -> None:
        async with staged(error(500), max_retries=5, breaker_failures=2) as stage:
            assert (await failed(stage)).message == "the upstream 'cloud' failed"
            assert len(stage.server.asked) == 2

    play(scenario())


def test_failures_count_in_a_row_only(play: Play) -> None:
    async def scenario() -> None:
        replies = [error(500), hello()] * 3
        async with staged(*replies, max_retries=0, breaker_failures=2) as stage:
            for _ in range(3):
                await failed(stage)
                assert await stage.ask()

    play(scenario())


def test_a_refused_request_does_not_open_the_breaker(play: Play) -> None:
    async def scenario() -> None:
        async with staged(error(400), max_retries=0, breaker_failures=1) as stage:
            for _ in range(3):
                assert isinstance(await failed(stage), BadRequest)
            assert len(stage.server.asked) == 3

    play(scenario())


def test_a_broken_stream_opens_the_breaker(play: Play) -> None:
    async def scenario() -> None:
        async with staged(streams(*pieces("x")[:-1]), breaker_failures=1) as stage:
            await failed(stage)
            assert "left alone" in (await failed(stage)).message

    play(scenario())


def test_no_more_requests_run_at_once_than_are_set(play: Play) -> None:
    async def scenario() -> None:
        gate = asyncio.Event()
        async with staged(held(gate, hello()), max_concurrent=2) as stage:
            asking = [asyncio.create_task(stage.ask()) for _ in range(6)]
            await stage.server.until_asked(2)
            gate.set()
            await asyncio.gather(*asking)
            assert len(stage.server.asked) == 6
            assert stage.server.most_connections == 2

    play(scenario())


def test_waiting_for_a_place_ends_with_the_request(play: Play) -> None:
    """The deadline cancels whoever waits; the place then goes to the next."""

    async def scenario() -> None:
        gate = asyncio.Event()
        async with staged(held(gate, says(HELLO)), max_concurrent=1) as stage:
            first = asyncio.create_task(stage.ask(deltas=False))
            await stage.server.until_asked(1)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await stage.ask(ASK, deltas=False)
            gate.set()
            assert await first
            assert await stage.ask(deltas=False)
            assert len(stage.server.asked) == 2

    play(scenario())


async def abandoned(stage: Stage, seconds: float = 0.2) -> None:
    completion = stage.upstream.stream(ASK, PLAIN, request_id="r")
    with pytest.raises(DeadlineExceeded):
        async for _ in Deadline.after(seconds).within(completion):
            pass


HEADERS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def only_headers(begin: bytes = HEADERS) -> Reply:
    async def reply(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(begin)
        await reader.read()

    return reply


@pytest.mark.parametrize("reply", [silent(), only_headers()])
def test_an_upstream_that_is_silent_until_deadlines_pass_opens_its_breaker(play: Play, reply: Reply) -> None:
    async def scenario() -> None:
        async with staged(reply, reply, reply, hello(), breaker_failures=3) as stage:
            for _ in range(3):
                assert stage.count("slhf_upstream_breaker_open") == 0
                await abandoned(stage)
            assert stage.count("slhf_upstream_breaker_open") == 1
            assert stage.count("slhf_upstream_errors_total", error_type="timeout") == 3
            assert "left alone" in (await failed(stage)).message
            stage.now += 30
            assert await stage.ask()
            assert stage.count("slhf_upstream_breaker_open") == 0

    play(scenario())


@pytest.mark.parametrize("reply", [silent(*pieces("Hello")[:-1]), only_headers(HEADERS + b"1\r\n:\r\n")])
def test_an_upstream_that_has_said_something_is_alive(play: Play, reply: Reply) -> None:
    async def scenario() -> None:
        async with staged(reply, breaker_failures=1) as stage:
            await abandoned(stage)
            assert stage.count("slhf_upstream_breaker_open") == 0

    play(scenario())


@asynccontextmanager
async def silent_after_one_answer() -> AsyncIterator[Stage]:
    """An upstream that has given one answer, in 0.3 seconds or more; one failure opens its breaker."""
    gate = asyncio.Event()
    async with staged(held(gate, hello()), silent(), breaker_failures=1) as stage:
        first = asyncio.create_task(stage.ask())
        await stage.server.until_asked(1)
        asyncio.get_running_loop().call_later(0.3, gate.set)
        assert await first
        yield stage


def test_who_waits_for_less_than_an_answer_takes_does_not_open_the_breaker(play: Play) -> None:
    """Else one client with short deadlines takes the upstream from all the others."""

    async def scenario() -> None:
        async with silent_after_one_answer() as stage:
            await abandoned(stage, 0.05)
            assert stage.count("slhf_upstream_breaker_open") == 0
            await abandoned(stage, 0.6)
            assert stage.count("slhf_upstream_breaker_open") == 1

    play(scenario())


def test_an_upstream_that_hangs_is_found_out_by_short_deadlines_too(play: Play) -> None:
    async def scenario() -> None:
        async with silent_after_one_answer() as stage:
            for _ in range(10):
                if stage.count("slhf_upstream_breaker_open") == 0:
                    await abandoned(stage, 0.05)
            assert stage.count("slhf_upstream_breaker_open") == 1
            assert stage.count("slhf_upstream_errors_total", error_type="timeout") == 1

    play(scenario())


def test_waiting_for_a_place_is_no_attempt(play: Play) -> None:
    async def scenario() -> None:
        async with staged(silent(), max_concurrent=1, breaker_failures=1) as stage:
            first = asyncio.create_task(stage.ask())
            await stage.server.until_asked(1)
            await abandoned(stage, 0.05)
            assert stage.count("slhf_upstream_breaker_open") == 0
            first.cancel()
            await asyncio.wait([first])

    play(scenario())


def test_no_attempt_begins_after_the_deadline(play: Play) -> None:
    async def scenario() -> None:
        async with staged(hello()) as stage:
            await abandoned(stage, 0.0)
            await abandoned(stage, -5.0)
            assert stage.server.asked == []

    play(scenario())


def test_nobody_waits_for_an_attempt_that_would_begin_after_the_deadline(play: Play) -> None:
    async def scenario() -> None:
        async with staged(error(503, Retry_After="20"), hello()) as stage:
            completion = stage.upstream.stream(ASK, PLAIN, request_id="r")
            with pytest.raises(UpstreamUnavailable) as raised:
                await Deadline.after(10).wait_for(anext(completion))
            assert raised.value.retry_after == 20
            assert stage.slept == []

    play(scenario())


def test_a_place_is_free_during_a_pause(play: Play) -> None:
    async def scenario() -> None:
        async with staged(error(503), hello(), hello(), max_concurrent=1) as stage:
            other: list[object] = []

            async def sleep(seconds: float) -> None:
                other.extend(await stage.ask())

            stage.sleep = sleep
            assert await stage.ask()
            assert other
            assert len(stage.server.asked) == 3

    play(scenario())
