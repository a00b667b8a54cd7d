"""`POST /v1/responses` is OpenAI's Responses API as far as text, functions and streams go; nothing is stored."""

import asyncio

from fastapi import APIRouter, Request, Response

from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import RESPONSES as FAILURES
from slhf_server.api.headers import refinement_headers
from slhf_server.api.openai.response_answer import ResponseAnswer
from slhf_server.api.openai.response_events import ResponseEvents
from slhf_server.api.openai.response_request import ResponseRequest
from slhf_server.api.planning import planned
from slhf_server.api.results import collect_results, json_bytes
from slhf_server.api.streaming import stream

_MANY = 100  # items, which become messages in a millisecond
router = APIRouter(route_class=JsonRoute)


@router.post("/v1/responses", responses=FAILURES)
async def responses(body: ResponseRequest, request: Request, service: RunningService) -> Response:
    request_id = request.state.request_id
    params = await asyncio.to_thread(body.params, request_id) if len(body.input) > _MANY else body.params(request_id)
    response_format = body.text.format.as_chat()
    (job,) = jobs = await planned(request, service, params, body.names, response_format=response_format)
    answer = ResponseAnswer(job, body)
    if body.stream:
        return await stream(service, jobs, ResponseEvents(job, answer, body.names))
    result = (await unless_disconnected(request, collect_results(service.run(jobs))))[0]
    whole = json_bytes(answer.whole(result))
    return Response(whole, media_type="application/json", headers=refinement_headers(result))
