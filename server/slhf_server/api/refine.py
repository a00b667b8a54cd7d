"""`POST /v1/refine`: improve a draft, or draft first, over k rounds; JSON with every round, or typed events."""

import time
from collections.abc import Mapping

from fastapi import APIRouter, Request, Response

from slhf.history import Message
from slhf.wire import ErrorEvent, Event, RefinementCompleted, RefineRequest, RefineResponse
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import CacheSalt, RunningService
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import RESPONSES, body_of
from slhf_server.api.headers import refinement_headers, trace_headers
from slhf_server.api.outcomes import outcomes
from slhf_server.api.sse import frame
from slhf_server.api.streaming import stream
from slhf_server.errors import RequestError
from slhf_server.models.base import Sampling
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import Step
from slhf_server.refinement.planner import Ask
from slhf_server.refinement.state import Outcome

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/refine", response_model=RefineResponse, responses=RESPONSES)
async def refine(body: RefineRequest, request: Request, service: RunningService, cache_salt: CacheSalt) -> Response:
    names = {} if body.prompt is None else {"messages": "prompt"}
    request.state.names = lambda: names
    ask = Ask(
        endpoint="refine",
        request_id=request.state.request_id,
        model=body.model,
        messages=body.messages if body.messages is not None else [Message(role="user", content=body.prompt or "")],
        options=body,
        sampling=Sampling(temperature=body.temperature, top_p=body.top_p, max_tokens=body.max_tokens),
        deltas="all" if body.stream else "none",
        cache_salt=cache_salt,
        log=request.state.log,
        trace=trace_headers(request.headers),
    )
    (job,) = jobs = service.planner().plan(ask)
    with_rounds = body.return_rounds is not False
    request.state.model = job.model
    if body.stream:
        return await stream(service, jobs, RefineEvents(job, with_rounds, names))
    outcome = (await unless_disconnected(request, outcomes(service.run(jobs))))[0]
    answer = _answer(job, outcome, with_rounds).model_dump_json()
    return Response(answer, media_type="application/json", headers=refinement_headers(outcome))


class RefineEvents:
    """Typed events, each with its `event:` field; implements `Renderer`."""

    def __init__(self, job: Job, with_rounds: bool, names: Mapping[str, str]) -> None:
        self._job = job
        self._names = names
        self._with_rounds = with_rounds

    def step(self, number: int, step: Step) -> list[bytes]:
        event: Event
        if isinstance(step, Outcome):
            event = RefinementCompleted(**dict(_answer(self._job, step, self._with_rounds)))
        else:
            event = step
        return [frame(event.model_dump_json(), event.type)]

    def end(self) -> list[bytes]:
        return []

    def error(self, exc: RequestError) -> bytes:
        event = ErrorEvent(error=body_of(exc, self._names))
        return frame(event.model_dump_json(), event.type)


def _answer(job: Job, outcome: Outcome, with_rounds: bool) -> RefineResponse:
    return RefineResponse(
        id=job.id,
        created=int(time.time()),
        model=job.model,
        output=outcome.text,
        finish_reason=outcome.finish_reason,
        refinement=outcome.report(with_rounds),
        usage=outcome.usage,
    )
