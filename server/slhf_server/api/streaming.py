"""Makes a stream of a refinement's events: early errors keep their HTTP status, and pings fill silence."""

from collections.abc import AsyncGenerator, Sequence
from typing import Protocol

from slhf.wire import ErrorBody, RoundCompleted, RoundStarted
from slhf_server.api.error_handlers import Names, answerable, body_of
from slhf_server.api.sse import PING, EventStream, Peekable
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.service import Service

Events = AsyncGenerator[tuple[int, RefinementEvent], None]
"""The events of a request's chains, each with its chain's number."""
_SETTLE_S = 0.2  # how long the answer's headers wait for an error that deserves its own HTTP status


class Renderer(Protocol):
    """How one endpoint writes a refinement as server-sent events."""

    def event(self, number: int, event: RefinementEvent) -> list[bytes]:
        """The frames of one event of a chain; an empty list where the event says nothing to the client."""

    def end(self) -> list[bytes]:
        """The frames after the last chain's result."""

    @property
    def names(self) -> Names:
        """The client's names of what errors name."""

    def error(self, status: int, body: ErrorBody) -> bytes:
        """The last frame of a stream that failed with this HTTP status."""


async def stream(service: Service, jobs: Sequence[Job], renderer: Renderer, *, ping: bytes = PING) -> EventStream:
    """The answer to a streamed request. Raises what refuses it at once, before any byte is sent."""
    peekable = await _await_first_event(service.run(jobs))
    settings = service.settings
    return EventStream(
        _frames(service, jobs[0], peekable, renderer),
        peekable,
        write_timeout_s=settings.write_timeout_s,
        ping_interval_s=settings.ping_interval_s,
        ping=ping,
    )


async def _await_first_event(events: Events) -> Peekable[tuple[int, RefinementEvent]]:
    """The events, once a model has produced something or nothing has gone wrong for a moment."""
    peekable = Peekable(events)
    try:
        while (seen := await peekable.look_ahead(_SETTLE_S)) is not None and not _a_model_has_spoken(seen[1]):
            pass
    except BaseException:
        await peekable.aclose()
        raise
    return peekable


async def _frames(
    service: Service, job: Job, events: Peekable[tuple[int, RefinementEvent]], renderer: Renderer
) -> AsyncGenerator[bytes, None]:
    """Yield each event's frames as one piece, because each piece costs a write. An error becomes the last frame."""
    try:
        async for numbered in events:
            if parts := renderer.event(*numbered):
                yield b"".join(parts)
        if parts := renderer.end():
            yield b"".join(parts)
    except Exception as exc:  # noqa: BLE001  the stream has begun: only a frame can tell the client
        error = answerable(exc, job.request_id)
        service.metrics.request_failed(job.model, job.endpoint, error.name)
        job.log["status"] = error.status
        yield renderer.error(error.status, body_of(error, renderer.names()))


def _a_model_has_spoken(event: RefinementEvent) -> bool:
    return not isinstance(event, RoundStarted) and not (isinstance(event, RoundCompleted) and event.role == "client")
