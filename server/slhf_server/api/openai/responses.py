"""`POST /v1/responses` is OpenAI's Responses API as far as text, instructions and streams go; nothing is stored."""

import asyncio
import json
import time
from itertools import count
from typing import Any

from fastapi import APIRouter, Request, Response

from slhf.wire import RoundDelta, Usage
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import RESPONSES as FAILURES
from slhf_server.api.error_handlers import body_of
from slhf_server.api.headers import refinement_headers
from slhf_server.api.openai.response_request import ResponseRequest
from slhf_server.api.planning import planned
from slhf_server.api.results import collect_results, json_bytes
from slhf_server.api.sse import frame
from slhf_server.api.streaming import stream
from slhf_server.errors import RequestError
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult

_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""OpenAI's reason for each finish reason of an answer that is not whole."""
_MANY = 100  # items, which become messages in a millisecond
router = APIRouter(route_class=JsonRoute)


@router.post("/v1/responses", responses=FAILURES)
async def responses(body: ResponseRequest, request: Request, service: RunningService) -> Response:
    request_id = request.state.request_id
    params = await asyncio.to_thread(body.params, request_id) if len(body.input) > _MANY else body.params(request_id)
    response_format = body.text.format.as_chat()
    (job,) = jobs = await planned(request, service, params, body.names, response_format=response_format)
    if body.stream:
        return await stream(service, jobs, ResponseEvents(job, body))
    result = (await unless_disconnected(request, collect_results(service.run(jobs))))[0]
    answer = json_bytes(Answer(job, body).ended(result))
    return Response(answer, media_type="application/json", headers=refinement_headers(result))


class Answer:
    """The response object in its states."""

    def __init__(self, job: Job, body: ResponseRequest) -> None:
        self._job = job
        self._body = body
        self.item_id = job.id.replace("resp-", "msg-", 1)
        self._created = int(time.time())

    def begun(self) -> dict[str, Any]:
        return self._response("in_progress", [])

    def ended(self, result: RefinementResult) -> dict[str, Any]:
        response = self._response(_status(result), [self.item(result)])
        if (reason := _INCOMPLETE.get(result.finish_reason)) is not None:
            response["incomplete_details"] = {"reason": reason}
        report = result.report(bool(self._body.refine.return_rounds))
        return response | {"usage": _usage(result.usage), "refinement": report.model_dump()}

    def item(self, result: RefinementResult | None) -> dict[str, Any]:
        """The message, which is the output's one item; without a result it has just begun."""
        return {
            "id": self.item_id,
            "type": "message",
            "role": "assistant",
            "status": "in_progress" if result is None else _status(result),
            "content": [] if result is None else [part(result.text)],
        }

    def _response(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        body = self._body
        return {
            "id": self._job.id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "model": self._job.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "text": body.text.told(),
            "tools": [],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "truncation": "disabled",
            "store": False,
            "metadata": {},
            "usage": None,
        }


def part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _status(result: RefinementResult) -> str:
    return "incomplete" if result.finish_reason in _INCOMPLETE else "completed"


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }


class ResponseEvents:
    """Renders OpenAI's typed, numbered events. There is no [DONE]: the last event says how the response ended.

    Implements `Renderer`.
    """

    def __init__(self, job: Job, body: ResponseRequest) -> None:
        self._job = job
        self._answer = Answer(job, body)
        self._names = body.names
        self._numbers = count()
        self._opened = False
        self._text = ""

    def event(self, number: int, event: RefinementEvent) -> list[bytes]:
        opening = [] if self._opened else self._opening()
        self._opened = True
        if isinstance(event, RoundDelta):
            return opening + (self._delta(event.delta) if self._job.answers_with(event.round) else [])
        return opening + (self._ending(event) if isinstance(event, RefinementResult) else [])

    def end(self) -> list[bytes]:
        return []

    def error(self, exc: RequestError) -> bytes:
        told = body_of(exc, self._names())
        return self._event("error", code=told.code or told.type, message=told.message, param=told.param)

    def _opening(self) -> list[bytes]:
        return [
            self._event("response.created", response=self._answer.begun()),
            self._event("response.in_progress", response=self._answer.begun()),
            self._event("response.output_item.added", output_index=0, item=self._answer.item(None)),
            self._event("response.content_part.added", **self._place(), part=part("")),
        ]

    def _delta(self, text: str) -> list[bytes]:
        self._text += text
        return [self._event("response.output_text.delta", **self._place(), delta=text, logprobs=[])] if text else []

    def _ending(self, result: RefinementResult) -> list[bytes]:
        missing = result.text.removeprefix(self._text)  # the whole text, where no round was streamed as the answer
        response = self._answer.ended(result)
        return [
            *self._delta(missing),
            self._event("response.output_text.done", **self._place(), text=result.text, logprobs=[]),
            self._event("response.content_part.done", **self._place(), part=part(result.text)),
            self._event("response.output_item.done", output_index=0, item=self._answer.item(result)),
            self._event(f"response.{response['status']}", response=response),
        ]

    def _place(self) -> dict[str, Any]:
        return {"item_id": self._answer.item_id, "output_index": 0, "content_index": 0}

    def _event(self, kind: str, **fields: Any) -> bytes:
        return frame(json.dumps({"type": kind, "sequence_number": next(self._numbers), **fields}), kind)
