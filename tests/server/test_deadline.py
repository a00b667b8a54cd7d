"""Deadlines: what they cut, what they leave alone, and that they close what they cut."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing, closing
from weakref import ref

import pytest

from slhf_server.deadline import Deadline
from slhf_server.errors import DeadlineExceeded
from tests.server.conftest import Play


class Source:
    """Yields 0, 1, ... and then waits for ever, raises or ends; knows whether it was closed."""

    def __init__(self, items: int, *, error: Exception | None = None, ends: bool = False) -> None:
        self.closed = False
        self.waiting = asyncio.Event()
        self._items = items
        self._error = error
        self._ends = ends

    async def stream(self) -> AsyncGenerator[int, None]:
        try:
            for number in range(self._items):
                yield number
            if self._error is not None:
                raise self._error
            if not self._ends:
                self.waiting.set()
                await asyncio.Event().wait()
        finally:
            self.closed = True


def test_what_ends_in_time_gives_its_result(play: Play) -> None:
    async def scenario() -> None:
        assert await Deadline.after(3600).wait_for(asyncio.sleep(0, "done")) == "done"

    play(scenario())


@pytest.mark.parametrize("seconds", [-1, 0, 0.01])
def test_waiting_ends_when_the_deadline_passes(play: Play, seconds: float) -> None:
    async def scenario() -> None:
        with pytest.raises(DeadlineExceeded):
            await Deadline.after(seconds).wait_for(asyncio.Event().wait())

    play(scenario())


def test_bringing_it_forward_wakes_who_waits(play: Play) -> None:
    async def scenario() -> None:
        source, deadline = Source(0), Deadline.after(3600)

        async def consume() -> None:
            async for _ in deadline.within(source.stream()):
                pass

        waiting = asyncio.create_task(consume())
        await source.waiting.wait()
        deadline.bring_forward(asyncio.get_running_loop().time())
        with pytest.raises(DeadlineExceeded):
            await waiting
        assert source.closed

    play(scenario())


def test_bringing_it_forward_while_nobody_waits_counts_for_the_next_wait(play: Play) -> None:
    async def scenario() -> None:
        deadline = Deadline.after(3600)
        assert await deadline.wait_for(asyncio.sleep(0, True))
        deadline.bring_forward(asyncio.get_running_loop().time())
        with pytest.raises(DeadlineExceeded):
            await deadline.wait_for(asyncio.Event().wait())

    play(scenario())


def test_it_never_moves_away(play: Play) -> None:
    async def scenario() -> None:
        deadline = Deadline.after(0)
        deadline.bring_forward(asyncio.get_running_loop().time() + 3600)
        with pytest.raises(DeadlineExceeded):
            await deadline.wait_for(asyncio.Event().wait())

    play(scenario())


def test_items_in_time_all_arrive_and_the_source_is_closed(play: Play) -> None:
    async def scenario() -> None:
        source = Source(3, ends=True)
        assert [number async for number in Deadline.after(3600).within(source.stream())] == [0, 1, 2]
        assert source.closed

    play(scenario())


def test_the_source_is_closed_when_the_deadline_passes(play: Play) -> None:
    async def scenario() -> None:
        source = Source(2)
        taken: list[int] = []

        async def take() -> None:
            async for number in Deadline.after(0.01).within(source.stream()):
                taken.append(number)

        with pytest.raises(DeadlineExceeded):
            await take()
        assert (taken, source.closed) == ([0, 1], True)

    play(scenario())


def test_the_source_is_closed_when_the_consumer_has_enough(play: Play) -> None:
    async def scenario() -> None:
        source = Source(2)
        async with aclosing(Deadline.after(3600).within(source.stream())) as numbers:
            assert await anext(numbers) == 0
            assert not source.closed
        assert source.closed

    play(scenario())


def test_an_error_of_the_source_passes_through_and_it_is_closed(play: Play) -> None:
    async def scenario() -> None:
        source = Source(1, error=ZeroDivisionError("boom"))
        with pytest.raises(ZeroDivisionError, match="boom"):
            async for _ in Deadline.after(3600).within(source.stream()):
                pass
        assert source.closed

    play(scenario())


def test_an_error_of_the_consumer_closes_the_source(play: Play) -> None:
    async def scenario() -> None:
        source = Source(2)

        async def fail() -> None:
            async with aclosing(Deadline.after(3600).within(source.stream())) as numbers:
                async for _ in numbers:
                    raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            await fail()
        assert source.closed

    play(scenario())


def test_the_consumers_own_work_is_never_cancelled(play: Play) -> None:
    """The deadline passes while the consumer is at work: it is told when it asks for the next item."""

    async def scenario() -> None:
        source, deadline = Source(1), Deadline.after(3600)
        loop = asyncio.get_running_loop()
        async with aclosing(deadline.within(source.stream())) as numbers:
            await anext(numbers)
            deadline.bring_forward(loop.time())
            passed = asyncio.Event()
            loop.call_later(0.01, passed.set)
            assert await passed.wait()
            with pytest.raises(DeadlineExceeded):
                await anext(numbers)
        assert source.closed

    play(scenario())


def test_cancelling_the_consumer_is_no_deadline(play: Play) -> None:
    async def scenario() -> None:
        source = Source(0)

        async def consume() -> None:
            async with aclosing(Deadline.after(3600).within(source.stream())) as numbers:
                await anext(numbers)

        consuming = asyncio.create_task(consume())
        await source.waiting.wait()
        consuming.cancel()
        with pytest.raises(asyncio.CancelledError):
            await consuming
        assert source.closed

    play(scenario())


def test_closed_it_waits_for_nothing_and_counts_for_a_later_wait_all_the_same(play: Play) -> None:
    async def scenario() -> None:
        deadline = Deadline.after(0.01)
        with closing(deadline):
            assert await deadline.wait_for(asyncio.sleep(0, True))
        with pytest.raises(DeadlineExceeded):
            await deadline.wait_for(asyncio.Event().wait())

        far = Deadline.after(3600)
        known = ref(far)
        with closing(far):
            assert await far.wait_for(asyncio.sleep(0, True))
        del far
        assert known() is None, "the event loop has no timer that knows it"

    play(scenario())
