"""`POST /v1/chat/completions`: OpenAI's chat, answered by Leader and k Follower rounds."""

import json
import time
from typing import Any

from fastapi import APIRouter, Request, Response

from slhf.wire import ErrorResponse, RefineOptions, RoundDelta
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.failures import RESPONSES, body_of
from slhf_server.api.headers import refinement_headers
from slhf_server.api.refine import last_step
from slhf_server.api.sse import DONE, frame
from slhf_server.api.streaming import stream
from slhf_server.chain import Outcome
from slhf_server.chat import ChatRequest
from slhf_server.errors import RequestError
from slhf_server.job import Job
from slhf_server.model import Sampling
from slhf_server.refinement import Step
from slhf_server.service import Service

router = APIRouter()


@router.post("/v1/chat/completions", responses=RESPONSES)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    service: Service = request.app.state.service
    job = service.planner().plan(
        endpoint="chat",
        request_id=request.state.request_id,
        model=body.model,
        messages=body.messages,
        options=body.refine,
        sampling=_sampling(body),
        deltas="none" if not body.stream else "all" if body.refine.show_rounds else "last",
    )
    request.state.model = job.model
    if body.stream:
        return await stream(service, job, ChatChunks(job, body))
    outcome = await unless_disconnected(request, last_step(service.run(job)))
    answer = json.dumps(_completion(job, outcome, body.refine))
    return Response(answer, media_type="application/json", headers=refinement_headers(outcome))


def _sampling(body: ChatRequest) -> Sampling:
    """Top-level sampling parameters: for both roles."""
    shared = set(Sampling.__dataclass_fields__) & set(ChatRequest.model_fields) - {"stop", "max_tokens"}
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    max_tokens = body.max_completion_tokens or body.max_tokens  # ChatRequest takes only one of them
    return Sampling(stop=stop, max_tokens=max_tokens, **{name: getattr(body, name) for name in shared})


def _completion(job: Job, outcome: Outcome, options: RefineOptions) -> dict[str, Any]:
    message = {"role": "assistant", "content": outcome.text, "refusal": None}
    if options.show_rounds:
        earlier = outcome.refinement.rounds[: outcome.refinement.returned_round]
        message["reasoning_content"] = "\n\n".join(finished.text for finished in earlier)
    choice = {"index": 0, "message": message, "finish_reason": outcome.finish_reason, "logprobs": None}
    return {
        "id": job.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": job.model,
        "choices": [choice],
        "usage": outcome.usage.model_dump(),
        "refinement": outcome.report(bool(options.return_rounds)).model_dump(),
    }


class ChatChunks:
    """OpenAI's chunks: role, content of the answering round, finish, usage, [DONE]; implements `Renderer`."""

    def __init__(self, job: Job, body: ChatRequest) -> None:
        self._job = job
        self._with_rounds = bool(body.refine.return_rounds)
        self._usage = body.stream_options is not None and body.stream_options.include_usage
        self._head = {
            "id": job.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": job.model,
        }
        self._opened = False
        self._answered = False  # content of the answering round was sent

    def step(self, step: Step) -> list[bytes]:
        opening = [] if self._opened else [self._chunk({"role": "assistant", "content": ""})]
        self._opened = True
        if isinstance(step, RoundDelta):
            return opening + self._delta(step)
        return opening + (self._ending(step) if isinstance(step, Outcome) else [])

    def error(self, exc: RequestError) -> bytes:
        return frame(ErrorResponse(error=body_of(exc)).model_dump_json())

    def _delta(self, step: RoundDelta) -> list[bytes]:
        if step.round < self._job.rounds:
            return [self._chunk({"reasoning_content": step.delta})] if self._job.deltas == "all" else []
        self._answered = True
        return [self._chunk({"content": step.delta})]

    def _ending(self, outcome: Outcome) -> list[bytes]:
        """An answer that no round streamed (a draft, or a round before the last) comes in one piece."""
        parts = [] if self._answered or not outcome.text else [self._chunk({"content": outcome.text})]
        parts.append(self._chunk({}, outcome.finish_reason))
        if self._usage:
            totals = {
                "choices": [],
                "usage": outcome.usage.model_dump(),
                "refinement": outcome.report(self._with_rounds).model_dump(),
            }
            parts.append(frame(json.dumps(self._head | totals)))
        return [*parts, DONE]

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        body: dict[str, Any] = self._head | {"choices": [choice]}
        if self._usage:
            body["usage"] = None
        return frame(json.dumps(body))
