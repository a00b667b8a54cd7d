"""`POST /v1/messages`: Anthropic's messages, answered by Leader and k Follower rounds."""

import asyncio

from fastapi import APIRouter, Request, Response

from slhf_server.api.anthropic.message_answer import MessageAnswer
from slhf_server.api.anthropic.message_events import PING_EVENT, MessageEvents
from slhf_server.api.anthropic.message_request import MessageRequest
from slhf_server.api.anthropic.message_schema import AnthropicMessage
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import ANTHROPIC_RESPONSES
from slhf_server.api.headers import refinement_headers
from slhf_server.api.planning import planned
from slhf_server.api.results import collect_results, json_bytes
from slhf_server.api.streaming import stream

_MANY = 100  # messages, which become chat's in a millisecond
router = APIRouter(route_class=JsonRoute)


@router.post("/v1/messages", response_model=AnthropicMessage, responses=ANTHROPIC_RESPONSES)
async def messages(body: MessageRequest, request: Request, service: RunningService) -> Response:
    request_id = request.state.request_id
    many = len(body.messages) > _MANY
    params = await asyncio.to_thread(body.params, request_id) if many else body.params(request_id)
    (job,) = jobs = await planned(request, service, params, body.names, response_format=body.response_format())
    answer = MessageAnswer(job, body.refine)
    if body.stream:
        return await stream(service, jobs, MessageEvents(job, answer, body.names), ping=PING_EVENT)
    result = (await unless_disconnected(request, collect_results(service.run(jobs))))[0]
    content = json_bytes(answer.whole(result))
    return Response(content, media_type="application/json", headers=refinement_headers(result))
