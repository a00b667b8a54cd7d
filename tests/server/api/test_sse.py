"""Server-sent events: framing, waiting without losing an item, and closing what is streamed."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Message

from slhf_server.api.sse import EventStream, Peekable, frame
from tests.conftest import until
from tests.server.conftest import Play


class Source:
    """Yields an item for each `give`; knows whether it was closed."""

    def __init__(self) -> None:
        self.closed = False
        self.asked = 0
        self._items: asyncio.Queue[str | Exception | None] = asyncio.Queue()

    def give(self, *items: str | Exception | None) -> None:
        """An item, an error to raise, or None: the end."""
        for item in items:
            self._items.put_nowait(item)

    async def stream(self) -> AsyncGenerator[str, None]:
        try:
            while True:
                self.asked += 1
                item = await self._items.get()
                if item is None:
                    return
                if isinstance(item, Exception):
                    raise item
                yield item
        finally:
            self.closed = True

    async def frames(self) -> AsyncGenerator[bytes, None]:
        async with aclosing(self.stream()) as items:
            async for item in items:
                yield frame(item)


def event_stream(source: Source, write_timeout_s: float = 60, ping_interval_s: float = 60) -> EventStream:
    return EventStream(
        source.frames(),
        Peekable(source.stream()),
        write_timeout_s=write_timeout_s,
        ping_interval_s=ping_interval_s,
    )


def test_a_frame_is_data_and_an_optional_event_ended_by_an_empty_line() -> None:
    assert frame('{"a": "\u00e9"}') == 'data: {"a": "\u00e9"}\n\n'.encode()
    assert frame("{}", "round.started") == b"event: round.started\ndata: {}\n\n"


def test_a_wait_that_times_out_loses_no_item(play: Play) -> None:
    async def scenario() -> None:
        source = Source()
        async with aclosing(Peekable(source.stream())) as paced:
            for _ in range(3):
                assert await paced.look_ahead(0) is None
            source.give("a", "b", None)
            assert [await anext(paced), await anext(paced)] == ["a", "b"]
            with pytest.raises(StopAsyncIteration):
                await anext(paced)
        assert source.asked == 3

    play(scenario())


def test_an_item_that_arrives_between_two_waits_is_there_at_once(play: Play) -> None:
    async def scenario() -> None:
        source = Source()
        async with aclosing(Peekable(source.stream())) as paced:
            assert await paced.look_ahead(0.001) is None
            source.give("a")
            assert await anext(paced) == "a"

    play(scenario())


def test_an_item_looked_at_is_still_given(play: Play) -> None:
    async def scenario() -> None:
        source = Source()
        source.give("a", "b", "c", None)
        async with aclosing(Peekable(source.stream())) as paced:
            assert [await paced.look_ahead(10), await paced.look_ahead(10)] == ["a", "b"]
            assert [await anext(paced) for _ in range(3)] == ["a", "b", "c"]
            with pytest.raises(StopAsyncIteration):
                await anext(paced)

    play(scenario())


def test_a_look_that_times_out_loses_no_item(play: Play) -> None:
    async def scenario() -> None:
        source = Source()
        async with aclosing(Peekable(source.stream())) as paced:
            assert await paced.look_ahead(0) is None
            source.give("a")
            assert await anext(paced) == "a"

    play(scenario())


def test_an_error_of_the_source_is_raised_to_who_waits(play: Play) -> None:
    async def scenario() -> None:
        source = Source()
        async with aclosing(Peekable(source.stream())) as paced:
            assert await paced.look_ahead(0) is None
            source.give(ZeroDivisionError("boom"))
            with pytest.raises(ZeroDivisionError, match="boom"):
                await anext(paced)
        assert source.closed

    play(scenario())


def test_closing_cancels_the_pending_item_and_closes_the_source(play: Play) -> None:
    async def scenario() -> None:
        source = Source()
        paced = Peekable(source.stream())
        while not source.asked:
            assert await paced.look_ahead(0) is None
        assert not source.closed
        await paced.aclose()
        assert source.closed
        assert asyncio.all_tasks() <= {asyncio.current_task()}

    play(scenario())


def test_closing_swallows_the_error_that_nobody_waited_for(play: Play) -> None:
    """And asyncio has nothing to complain about: "exception was never retrieved" would fail this test."""

    async def scenario() -> None:
        complaints: list[dict[str, object]] = []
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: complaints.append(context))
        source = Source()
        paced = Peekable(source.stream())
        assert await paced.look_ahead(0) is None
        source.give(ZeroDivisionError())
        await until(lambda: source.closed)
        await paced.aclose()
        del paced
        assert complaints == []

    play(scenario())


def test_closing_before_the_first_item_is_fine(play: Play) -> None:
    async def scenario() -> None:
        await Peekable(Source().stream()).aclose()

    play(scenario())


def test_the_stream_is_closed_when_the_client_goes_while_sending_blocks(play: Play) -> None:
    """As uvicorn does it (ASGI 2.3): `send` waits for a full socket, and `receive` tells of the disconnect."""

    async def scenario() -> None:
        source, blocked = Source(), asyncio.Event()
        source.give("a", "b")

        async def receive() -> Message:
            await blocked.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                blocked.set()
                await asyncio.Event().wait()

        await event_stream(source)({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send)
        assert source.closed

    play(scenario())


def test_the_stream_is_closed_when_sending_fails(play: Play) -> None:
    """As ASGI 2.4 tells of a disconnect."""

    async def scenario() -> None:
        source = Source()
        source.give("a")

        async def receive() -> Message:
            raise AssertionError("nothing to receive")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                raise OSError("gone")

        with pytest.raises(ClientDisconnect):
            await event_stream(source)({"type": "http", "asgi": {"spec_version": "2.4"}}, receive, send)
        assert source.closed

    play(scenario())


def test_the_stream_is_closed_when_its_task_is_cancelled(play: Play) -> None:
    async def scenario() -> None:
        source, sent = Source(), asyncio.Event()
        source.give("a")

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                sent.set()

        response = event_stream(source)
        sending = asyncio.create_task(response({"type": "http", "asgi": {"spec_version": "2.3"}}, receive, send))
        await sent.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        assert source.closed

    play(scenario())


def test_a_client_that_reads_nothing_is_given_up_after_the_timeout(play: Play) -> None:
    async def scenario() -> None:
        source = Source()
        source.give("a")

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                await asyncio.Event().wait()

        for spec_version in ("2.3", "2.4"):
            response = event_stream(source, write_timeout_s=0.01)
            await response({"type": "http", "asgi": {"spec_version": spec_version}}, receive, send)
            assert source.closed
            source.closed = False
            source.give("a")

    play(scenario())


def test_silence_of_the_source_is_no_fault_of_the_client(play: Play) -> None:
    async def scenario() -> None:
        source, sent = Source(), asyncio.Event()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.start":
                asyncio.get_running_loop().call_later(0.05, source.give, "late", None)
            if message.get("body"):
                sent.set()

        await event_stream(source, write_timeout_s=0.01)({"type": "http"}, receive, send)
        assert sent.is_set()

    play(scenario())


def test_silence_is_filled_with_pings_and_one_that_is_not_read_ends_the_stream(play: Play) -> None:
    async def scenario() -> None:
        source, bodies = Source(), list[bytes]()

        async def receive() -> Message:
            await asyncio.Event().wait()
            raise AssertionError("unreachable")

        async def send(message: Message) -> None:
            if message["type"] == "http.response.body":
                bodies.append(message["body"])
                if len(bodies) == 3:
                    await asyncio.Event().wait()

        await event_stream(source, write_timeout_s=0.01, ping_interval_s=0.01)({"type": "http"}, receive, send)
        assert bodies == [b": ping\n\n"] * 3
        assert source.closed

    play(scenario())
