"""From a refinement's steps to a stream: early errors keep their HTTP status, silence is filled with pings."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Protocol

from slhf.wire import RoundCompleted, RoundStarted
from slhf_server.api.sse import PING, EventStream, Paced
from slhf_server.chain import Outcome
from slhf_server.errors import RequestError
from slhf_server.job import Job
from slhf_server.refinement import Step
from slhf_server.service import Service

_SETTLE_S = 0.2  # how long the answer's headers wait for an error that deserves its own HTTP status


class Renderer(Protocol):
    """How one endpoint writes a refinement as server-sent events."""

    def step(self, step: Step) -> list[bytes]:
        """The frames of one step; an empty list where the step says nothing to the client."""

    def error(self, exc: RequestError) -> bytes: ...


async def stream(service: Service, job: Job, renderer: Renderer) -> EventStream:
    """The answer to a streamed request. Raises what refuses it at once, before any byte is sent."""
    paced = await _settle(service.run(job))
    return EventStream(_frames(service, job, paced, renderer), service.settings.write_timeout_s)


async def _settle(steps: AsyncGenerator[Step, None]) -> Paced[Step]:
    """The steps, once a model has spoken or nothing went wrong for a moment."""
    paced = Paced(steps)
    try:
        while (step := await paced.look_ahead(_SETTLE_S)) is not None and not _a_model_has_spoken(step):
            pass
    except BaseException:
        await paced.aclose()
        raise
    return paced


async def _frames(service: Service, job: Job, steps: Paced[Step], renderer: Renderer) -> AsyncGenerator[bytes, None]:
    """Each step rendered, up to the Outcome; a ping whenever nothing was sent for the ping interval."""
    clock = asyncio.get_running_loop().time
    last_sent = clock()
    step: Step | None = None
    async with aclosing(steps):
        try:
            while not isinstance(step, Outcome):
                step = await steps.next_within(last_sent + service.settings.ping_interval_s - clock())
                parts = [PING] if step is None else renderer.step(step)
                for part in parts:
                    yield part
                if parts:
                    last_sent = clock()
        except RequestError as exc:
            service.metrics.request_failed(job.model, job.endpoint, exc)
            yield renderer.error(exc)


def _a_model_has_spoken(step: Step) -> bool:
    return not isinstance(step, RoundStarted) and not (isinstance(step, RoundCompleted) and step.role == "client")
