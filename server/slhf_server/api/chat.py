"""`POST /v1/chat/completions`: OpenAI's chat, answered by Leader and k Follower rounds."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from slhf.wire import ErrorResponse, Refinement, RoundDelta, TokenLogprob
from slhf_server.api.body import JsonRoute
from slhf_server.api.completion import ChatCompletion
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.failures import RESPONSES, body_of
from slhf_server.api.headers import refinement_headers
from slhf_server.api.outcomes import outcomes, together
from slhf_server.api.sse import DONE, frame
from slhf_server.api.streaming import stream
from slhf_server.chain import Outcome
from slhf_server.chat import ChatRequest
from slhf_server.errors import RequestError
from slhf_server.job import Job
from slhf_server.planner import Ask
from slhf_server.refinement import Step
from slhf_server.service import Service

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=RESPONSES)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    service: Service = request.app.state.service
    planner = service.planner()
    body.suits(planner.drafter(body.model, body.refine))
    ask = Ask(
        endpoint="chat",
        request_id=request.state.request_id,
        model=body.model,
        messages=body.messages,
        options=body.refine,
        sampling=body.sampling(),
        deltas="none" if not body.stream else "all" if body.refine.show_rounds else "last",
        choices=body.n or 1,
    )
    jobs = planner.plan(ask)
    request.state.model = jobs[0].model
    if body.stream:
        return await stream(service, jobs, ChatChunks(jobs[0], body))
    ended = await unless_disconnected(request, outcomes(service.run(jobs)))
    answer = json.dumps(_completion(jobs[0], ended, body))
    return Response(answer, media_type="application/json", headers=refinement_headers(together(ended)))


def _completion(job: Job, ended: Mapping[int, Outcome], body: ChatRequest) -> dict[str, Any]:
    whole = together(ended)
    return {
        "id": job.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": job.model,
        "choices": [_choice(number, outcome, body, alone=len(ended) == 1) for number, outcome in ended.items()],
        "usage": whole.usage.model_dump(),
        "refinement": whole.report(bool(body.refine.return_rounds)).model_dump(),
    }


def _choice(number: int, outcome: Outcome, body: ChatRequest, *, alone: bool) -> dict[str, Any]:
    """One choice; of several, each has a report of its own."""
    message: dict[str, Any] = {"role": "assistant", "content": outcome.text, "refusal": None}
    if outcome.tool_calls:
        message |= {"content": outcome.text or None, "tool_calls": outcome.tool_calls}
    if body.refine.show_rounds:
        earlier = outcome.refinement.rounds[: outcome.refinement.returned_round]
        message["reasoning_content"] = "\n\n".join(finished.text for finished in earlier)
    choice = {
        "index": number,
        "message": message,
        "finish_reason": outcome.finish_reason,
        "logprobs": _logprobs(outcome.logprobs) if body.logprobs else None,
    }
    return choice if alone else choice | {"refinement": _report(outcome, body).model_dump()}


def _report(outcome: Outcome, body: ChatRequest) -> Refinement:
    return outcome.report(bool(body.refine.return_rounds))


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": [token.model_dump() for token in tokens], "refusal": None}


class ChatChunks:
    """OpenAI's chunks: for each choice role, content of the answering round, finish; then usage and [DONE].

    Implements `Renderer`.
    """

    def __init__(self, job: Job, body: ChatRequest) -> None:
        self._job = job
        self._body = body
        self._usage = body.stream_options is not None and body.stream_options.include_usage
        self._head = {
            "id": job.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": job.model,
        }
        self._opened: set[int] = set()
        self._answered: set[int] = set()  # content of the answering round was sent
        self._ended: dict[int, Outcome] = {}

    def step(self, number: int, step: Step) -> list[bytes]:
        opening = [] if number in self._opened else [self._chunk(number, {"role": "assistant", "content": ""})]
        self._opened.add(number)
        if isinstance(step, RoundDelta):
            return opening + self._delta(number, step)
        return opening + (self._ending(number, step) if isinstance(step, Outcome) else [])

    def end(self) -> list[bytes]:
        if not self._usage:
            return [DONE]
        whole = together(dict(sorted(self._ended.items())))
        totals = {
            "choices": [],
            "usage": whole.usage.model_dump(),
            "refinement": _report(whole, self._body).model_dump(),
        }
        return [frame(json.dumps(self._head | totals)), DONE]

    def error(self, exc: RequestError) -> bytes:
        return frame(ErrorResponse(error=body_of(exc)).model_dump_json())

    def _delta(self, number: int, step: RoundDelta) -> list[bytes]:
        if not self._job.answers_with(step.round):
            return [self._chunk(number, {"reasoning_content": step.delta})]
        self._answered.add(number)
        return [self._chunk(number, {"content": step.delta}, logprobs=step.logprobs)]

    def _ending(self, number: int, outcome: Outcome) -> list[bytes]:
        """An answer that no round streamed (a draft, a round before the last, structured output) comes in one piece."""
        self._ended[number] = outcome
        parts = []
        if outcome.text and number not in self._answered:
            parts.append(self._chunk(number, {"content": outcome.text}, logprobs=outcome.logprobs))
        if outcome.tool_calls:
            calls = [{"index": index, **call} for index, call in enumerate(outcome.tool_calls)]
            parts.append(self._chunk(number, {"tool_calls": calls}))
        return [*parts, self._chunk(number, {}, finish_reason=outcome.finish_reason)]

    def _chunk(
        self,
        number: int,
        delta: dict[str, Any],
        *,
        logprobs: Sequence[TokenLogprob] = (),
        finish_reason: str | None = None,
    ) -> bytes:
        choice = {
            "index": number,
            "delta": delta,
            "finish_reason": finish_reason,
            "logprobs": _logprobs(logprobs) if logprobs else None,
        }
        body: dict[str, Any] = self._head | {"choices": [choice]}
        if self._usage:
            body["usage"] = None
        return frame(json.dumps(body))
