"""From a refinement's steps to a stream: early errors keep their HTTP status, silence is filled with pings."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Protocol

from slhf.wire import RoundCompleted, RoundStarted
from slhf_server.api.sse import PING, EventStream, Paced
from slhf_server.errors import RequestError
from slhf_server.job import Job
from slhf_server.refinement import Step
from slhf_server.service import Service

Steps = AsyncGenerator[tuple[int, Step], None]
"""The steps of a request's chains, each with its chain's number."""
_SETTLE_S = 0.2  # how long the answer's headers wait for an error that deserves its own HTTP status


class Renderer(Protocol):
    """How one endpoint writes a refinement as server-sent events."""

    def step(self, number: int, step: Step) -> list[bytes]:
        """The frames of one step of a chain; an empty list where the step says nothing to the client."""

    def end(self) -> list[bytes]:
        """The frames after the last chain's outcome."""

    def error(self, exc: RequestError) -> bytes: ...


async def stream(service: Service, jobs: Sequence[Job], renderer: Renderer) -> EventStream:
    """The answer to a streamed request. Raises what refuses it at once, before any byte is sent."""
    paced = await _settle(service.run(jobs))
    return EventStream(_frames(service, jobs[0], paced, renderer), service.settings.write_timeout_s)


async def _settle(steps: Steps) -> Paced[tuple[int, Step]]:
    """The steps, once a model has spoken or nothing went wrong for a moment."""
    paced = Paced(steps)
    try:
        while (seen := await paced.look_ahead(_SETTLE_S)) is not None and not _a_model_has_spoken(seen[1]):
            pass
    except BaseException:
        await paced.aclose()
        raise
    return paced


async def _frames(
    service: Service, job: Job, steps: Paced[tuple[int, Step]], renderer: Renderer
) -> AsyncGenerator[bytes, None]:
    """Each step rendered; a ping whenever nothing was sent for the ping interval."""
    clock = asyncio.get_running_loop().time
    last_sent = clock()
    async with aclosing(steps):
        try:
            while True:
                numbered = await steps.next_within(last_sent + service.settings.ping_interval_s - clock())
                parts = [PING] if numbered is None else renderer.step(*numbered)
                for part in parts:
                    yield part
                if parts:
                    last_sent = clock()
        except StopAsyncIteration:
            for part in renderer.end():
                yield part
        except RequestError as exc:
            service.metrics.request_failed(job.model, job.endpoint, exc)
            yield renderer.error(exc)


def _a_model_has_spoken(step: Step) -> bool:
    return not isinstance(step, RoundStarted) and not (isinstance(step, RoundCompleted) and step.role == "client")
