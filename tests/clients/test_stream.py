"""Streamed refinements; every test runs for `Client` and for `AsyncClient`."""

import asyncio
import contextlib
from collections.abc import Callable

import httpx2
import pytest

from slhf import (
    APIError,
    AsyncClient,
    BadRequest,
    Client,
    ContextLengthExceeded,
    DeadlineExceeded,
    Event,
    RateLimited,
    RefinementCompleted,
    RefineRequest,
    RoundDelta,
    TransportError,
    Unavailable,
)
from tests.clients.fakes import answer, error_event, events, raw_server, sse

ASKED = RefineRequest(prompt="why?", draft="so", rounds=2)
TOLD = events(ASKED)

Handler = Callable[[httpx2.Request], httpx2.Response]
Streamer = Callable[..., list[Event]]
"""Streams `ASKED`; returns the events, appending them to `seen` as they come."""


def _sync_stream(seen: list[Event] | None = None, *, stop_after: int = 999, **settings: object) -> list[Event]:
    seen = [] if seen is None else seen
    with Client(_sleep=lambda seconds: None, **settings) as client:  # type: ignore[arg-type]
        with contextlib.closing(client.stream("why?", draft="so", rounds=2)) as stream:
            for event in stream:
                seen.append(event)
                if len(seen) == stop_after:
                    break
    return seen


def _async_stream(seen: list[Event] | None = None, *, stop_after: int = 999, **settings: object) -> list[Event]:
    seen = [] if seen is None else seen

    async def sleep(seconds: float) -> None:
        """Not in a test."""

    async def run() -> None:
        async with AsyncClient(_sleep=sleep, **settings) as client:  # type: ignore[arg-type]
            async with contextlib.aclosing(client.stream("why?", draft="so", rounds=2)) as stream:
                async for event in stream:
                    seen.append(event)
                    if len(seen) == stop_after:
                        break

    asyncio.run(run())
    return seen


@pytest.fixture(params=[_sync_stream, _async_stream], ids=["sync", "async"])
def stream(request: pytest.FixtureRequest) -> Streamer:
    streamer: Streamer = request.param
    return streamer


def says(body: bytes, **headers: str) -> httpx2.MockTransport:
    return httpx2.MockTransport(lambda request: httpx2.Response(200, content=body, headers=headers))


def test_events_arrive_typed_and_in_order(stream: Streamer) -> None:
    seen = stream(transport=says(sse(TOLD)))
    assert seen == TOLD
    assert isinstance(seen[-1], RefinementCompleted)
    assert seen[-1].output == answer(ASKED).output
    assert "".join(event.delta for event in seen if isinstance(event, RoundDelta) and event.round == 1) == "betterso"


def test_the_request_asks_for_a_stream(stream: Streamer) -> None:
    asked: list[RefineRequest] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(RefineRequest.model_validate_json(request.content))
        return httpx2.Response(200, content=sse(TOLD))

    stream(transport=httpx2.MockTransport(handler))
    assert asked == [ASKED.model_copy(update={"stream": True})]


def test_events_that_only_a_newer_server_knows_are_passed_over(stream: Streamer) -> None:
    news = b'event: round.dreamt\ndata: {"type": "round.dreamt", "score": 1}\n\n'
    assert stream(transport=says(news + sse(TOLD))) == TOLD


@pytest.mark.parametrize(
    ("code", "type_", "expected", "status"),
    [
        (None, "invalid_request_error", BadRequest, 400),
        ("context_length_exceeded", "invalid_request_error", ContextLengthExceeded, 400),
        ("rate_limit_exceeded", "rate_limit_error", RateLimited, 429),
        ("engine_unavailable", "server_error", Unavailable, 503),
        ("deadline_exceeded", "server_error", DeadlineExceeded, 504),
        (None, "server_error", APIError, 500),
        ("something_new", "server_error", APIError, 500),
    ],
)
def test_an_error_event_is_raised_after_what_came_before_it(
    stream: Streamer, code: str | None, type_: str, expected: type[APIError], status: int
) -> None:
    seen: list[Event] = []
    body = sse([*TOLD[:2], error_event(code, type_)])
    with pytest.raises(APIError) as raised:
        stream(seen, transport=says(body, **{"X-Request-Id": "r1"}))
    assert type(raised.value) is expected
    assert (raised.value.status, raised.value.request_id) == (status, "r1")
    assert seen == TOLD[:2]


def test_an_error_before_the_stream_is_raised_as_any_other(stream: Streamer) -> None:
    body = {"error": {"message": "too long", "type": "invalid_request_error", "code": "context_length_exceeded"}}
    with pytest.raises(ContextLengthExceeded, match="too long"):
        stream(transport=httpx2.MockTransport(lambda request: httpx2.Response(400, json=body)))


def test_a_stream_that_could_not_begin_is_tried_again(stream: Streamer) -> None:
    replies = iter([httpx2.Response(503, text="not yet"), httpx2.Response(200, content=sse(TOLD))])
    assert stream(transport=httpx2.MockTransport(lambda request: next(replies))) == TOLD


def test_a_stream_that_ends_too_early_is_a_transport_error(stream: Streamer) -> None:
    seen: list[Event] = []
    with pytest.raises(TransportError, match="ended before the refinement was complete"):
        stream(seen, transport=says(sse(TOLD)[:-2]))
    assert seen == TOLD[:-1]


def test_an_event_that_is_not_what_it_says_is_a_transport_error(stream: Streamer) -> None:
    with pytest.raises(TransportError, match="not a round.delta event"):
        stream(transport=says(b'event: round.delta\ndata: {"type": "round.delta"}\n\n'))


def test_a_caller_may_leave_early(stream: Streamer) -> None:
    assert stream(stop_after=2, transport=says(sse(TOLD))) == TOLD[:2]


@pytest.mark.parametrize("reset", [False, True])
def test_a_connection_lost_after_the_first_byte_is_never_tried_again(stream: Streamer, reset: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    body = sse(TOLD[:2])
    seen: list[Event] = []
    with raw_server(head + b"%x\r\n%s\r\n" % (len(body), body), reset=reset) as (url, got):
        with pytest.raises(TransportError, match="no complete answer"):
            stream(seen, base_url=url)
    assert len(got) == 1
    assert reset or seen == TOLD[:2]  # a reset may overtake the bytes before it
