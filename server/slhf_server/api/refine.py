"""`POST /v1/refine` improves a draft, or drafts first, over k rounds; it answers JSON with every round, or events."""

import time

from fastapi import APIRouter, Request, Response

from slhf.history import Message
from slhf.wire import ErrorBody, ErrorEvent, Event, RefinementCompleted, RefineRequest, RefineResponse
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import RESPONSES, Names
from slhf_server.api.headers import refinement_headers
from slhf_server.api.planning import planned
from slhf_server.api.results import collect_results
from slhf_server.api.sse import frame
from slhf_server.api.streaming import stream
from slhf_server.models.base import SamplingParams
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.planner import RefineParams
from slhf_server.refinement.state import RefinementResult

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/refine", response_model=RefineResponse, responses=RESPONSES)
async def refine(body: RefineRequest, request: Request, service: RunningService) -> Response:
    names = {} if body.prompt is None else {"messages": "prompt"}
    params = RefineParams(
        endpoint="refine",
        request_id=request.state.request_id,
        model=body.model,
        messages=body.messages if body.messages is not None else [Message(role="user", content=body.prompt or "")],
        options=body,
        sampling=SamplingParams(
            temperature=body.temperature, top_p=body.top_p, max_tokens=body.max_tokens, seed=body.seed
        ),
        deltas="all" if body.stream else "none",
        priority=body.priority,
    )
    (job,) = jobs = await planned(request, service, params, lambda: names)
    with_rounds = body.return_rounds is not False
    if body.stream:
        return await stream(service, jobs, RefineEvents(job, with_rounds, lambda: names))
    result = (await unless_disconnected(request, collect_results(service.run(jobs))))[0]
    answer = _answer(job, result, with_rounds).model_dump_json()
    return Response(answer, media_type="application/json", headers=refinement_headers(result))


class RefineEvents:
    """Typed events, each with its `event:` field; implements `Renderer`."""

    def __init__(self, job: Job, with_rounds: bool, names: Names) -> None:
        self._job = job
        self.names = names
        self._with_rounds = with_rounds

    def event(self, number: int, event: RefinementEvent) -> list[bytes]:
        sent: Event
        if isinstance(event, RefinementResult):
            sent = RefinementCompleted(**dict(_answer(self._job, event, self._with_rounds)))
        else:
            sent = event
        return [frame(sent.model_dump_json(), sent.type)]

    def end(self) -> list[bytes]:
        return []

    def error(self, status: int, body: ErrorBody) -> bytes:
        event = ErrorEvent(error=body)
        return frame(event.model_dump_json(), event.type)


def _answer(job: Job, result: RefinementResult, with_rounds: bool) -> RefineResponse:
    return RefineResponse(
        id=job.id,
        created=int(time.time()),
        model=job.model,
        output=result.text,
        finish_reason=result.finish_reason,
        refinement=result.report(with_rounds),
        usage=result.usage,
    )
