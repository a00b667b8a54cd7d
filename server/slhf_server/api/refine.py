"""`POST /v1/refine`: improve a draft, or draft first, over k rounds; JSON with every round, or typed events."""

import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

from fastapi import APIRouter, Request, Response

from slhf.wire import (
    ErrorEvent,
    Event,
    Message,
    RefinementCompleted,
    RefineRequest,
    RefineResponse,
)
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.failures import RESPONSES, body_of
from slhf_server.api.headers import refinement_headers
from slhf_server.api.sse import PING, EventStream, Paced, frame
from slhf_server.api.streaming import settle
from slhf_server.chain import Outcome
from slhf_server.errors import RequestError
from slhf_server.job import Deltas, Job
from slhf_server.model import Sampling
from slhf_server.refinement import Step
from slhf_server.service import Service

ENDPOINT = "refine"
router = APIRouter()


@router.post("/v1/refine", response_model=RefineResponse, responses=RESPONSES)
async def refine(body: RefineRequest, request: Request) -> Response:
    service: Service = request.app.state.service
    messages = body.messages if body.messages is not None else [Message(role="user", content=body.prompt or "")]
    sampling = Sampling(temperature=body.temperature, top_p=body.top_p, max_tokens=body.max_tokens)
    deltas: Deltas = "all" if body.stream else "none"
    job_id = f"refine-{request.state.request_id}"
    job = service.planner().plan(job_id, body.model, messages, body, sampling, deltas=deltas)
    show_rounds = body.return_rounds is not False
    if body.stream:
        first, rest = await settle(service.run(job, ENDPOINT))
        return EventStream(_frames(job, show_rounds, first, rest, service.settings.ping_interval_s))
    outcome = await unless_disconnected(request, last_step(service.run(job, ENDPOINT)))
    return Response(
        _answer(job, outcome, show_rounds).model_dump_json(),
        media_type="application/json",
        headers=refinement_headers(outcome),
    )


async def last_step(steps: AsyncGenerator[Step, None]) -> Outcome:
    """Run a refinement to its end; what a caller who wants JSON needs of it."""
    async with aclosing(steps):
        async for step in steps:
            if isinstance(step, Outcome):
                return step
    raise AssertionError("a refinement ends with its Outcome or an error")


def _answer(job: Job, outcome: Outcome, show_rounds: bool) -> RefineResponse:
    return RefineResponse(
        id=job.id,
        created=int(time.time()),
        model=job.model,
        output=outcome.text,
        finish_reason=outcome.finish_reason,
        refinement=outcome.report(show_rounds),
        usage=outcome.usage,
    )


async def _frames(
    job: Job, show_rounds: bool, first: list[Step], rest: Paced[Step], ping_s: float
) -> AsyncGenerator[bytes, None]:
    async with aclosing(rest):
        try:
            for step in first:
                yield _frame(job, show_rounds, step)
            while not isinstance(step, Outcome):
                following = await rest.next_within(ping_s)
                if following is None:
                    yield PING
                else:
                    step = following
                    yield _frame(job, show_rounds, step)
        except RequestError as exc:
            yield _event(ErrorEvent(error=body_of(exc)))


def _frame(job: Job, show_rounds: bool, step: Step) -> bytes:
    if isinstance(step, Outcome):
        return _event(RefinementCompleted(**dict(_answer(job, step, show_rounds))))
    return _event(step)


def _event(event: Event) -> bytes:
    return frame(event.model_dump_json(), event.type)
