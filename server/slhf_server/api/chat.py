"""`POST /v1/chat/completions`: OpenAI's chat, answered by Leader and k Follower rounds."""

import json
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from fastapi import APIRouter, Request, Response

from slhf.wire import ErrorResponse, RoundDelta
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.failures import RESPONSES, body_of
from slhf_server.api.headers import refinement_headers
from slhf_server.api.refine import last_step
from slhf_server.api.sse import DONE, PING, EventStream, Paced, frame
from slhf_server.api.streaming import settle
from slhf_server.chain import Outcome
from slhf_server.chat import ChatRequest
from slhf_server.errors import RequestError
from slhf_server.job import Deltas, Job
from slhf_server.model import Sampling
from slhf_server.refinement import Step
from slhf_server.service import Service

ENDPOINT = "chat"
router = APIRouter()


@router.post("/v1/chat/completions", responses=RESPONSES)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    service: Service = request.app.state.service
    deltas: Deltas = "none" if not body.stream else "all" if body.refine.show_rounds else "last"
    job = service.planner().plan(
        f"chatcmpl-{request.state.request_id}", body.model, body.messages, body.refine, _sampling(body), deltas=deltas
    )
    if body.stream:
        first, rest = await settle(service.run(job, ENDPOINT))
        return EventStream(ChatStream(job, body).frames(first, rest, service.settings.ping_interval_s))
    outcome = await unless_disconnected(request, last_step(service.run(job, ENDPOINT)))
    return Response(
        json.dumps(_completion(job, outcome, bool(body.refine.return_rounds))),
        media_type="application/json",
        headers=refinement_headers(outcome),
    )


def _sampling(body: ChatRequest) -> Sampling:
    """Top-level sampling parameters: for both roles."""
    shared = set(Sampling.__dataclass_fields__) & set(ChatRequest.model_fields) - {"stop", "max_tokens"}
    stop = (body.stop,) if isinstance(body.stop, str) else tuple(body.stop or ())
    max_tokens = body.max_completion_tokens or body.max_tokens
    return Sampling(stop=stop, max_tokens=max_tokens, **{name: getattr(body, name) for name in shared})


def _completion(job: Job, outcome: Outcome, show_rounds: bool) -> dict[str, Any]:
    message = {"role": "assistant", "content": outcome.text, "refusal": None}
    choice = {"index": 0, "message": message, "finish_reason": outcome.finish_reason, "logprobs": None}
    return {
        "id": job.id,
        "object": "chat.completion",
        "created": int(time.time()),
        "model": job.model,
        "choices": [choice],
        "usage": outcome.usage.model_dump(),
        "refinement": outcome.report(show_rounds).model_dump(),
    }


class ChatStream:
    """OpenAI's chunks for one request: role, content of the answering round, finish, usage, [DONE]."""

    def __init__(self, job: Job, body: ChatRequest) -> None:
        self._job = job
        self._show_rounds = bool(body.refine.return_rounds)
        self._usage = body.stream_options is not None and body.stream_options.include_usage
        self._head = {
            "id": job.id,
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": job.model,
        }
        self._sent = False  # content of the answering round

    async def frames(self, first: list[Step], rest: Paced[Step], ping_s: float) -> AsyncGenerator[bytes, None]:
        async with aclosing(rest):
            try:
                yield self._chunk({"role": "assistant", "content": ""})
                for step in first:
                    for part in self._render(step):
                        yield part
                while not isinstance(step, Outcome):
                    following = await rest.next_within(ping_s)
                    if following is None:
                        yield PING
                        continue
                    step = following
                    for part in self._render(step):
                        yield part
            except RequestError as exc:
                yield frame(ErrorResponse(error=body_of(exc)).model_dump_json())

    def _render(self, step: Step) -> list[bytes]:
        """The frames of one step; most steps of a chat stream say nothing to its client."""
        if isinstance(step, RoundDelta):
            if step.round < self._job.rounds:
                return [self._chunk({"reasoning_content": step.delta})] if self._job.deltas == "all" else []
            self._sent = True
            return [self._chunk({"content": step.delta})]
        return self._ending(step) if isinstance(step, Outcome) else []

    def _ending(self, outcome: Outcome) -> list[bytes]:
        """An answer that no round streamed (a draft, or a round before the last) comes in one piece."""
        parts = [] if self._sent or not outcome.text else [self._chunk({"content": outcome.text})]
        parts.append(self._chunk({}, outcome.finish_reason))
        if self._usage:
            totals = {
                "choices": [],
                "usage": outcome.usage.model_dump(),
                "refinement": outcome.report(self._show_rounds).model_dump(),
            }
            parts.append(frame(json.dumps(self._head | totals)))
        return [*parts, DONE]

    def _chunk(self, delta: dict[str, str], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        body: dict[str, Any] = self._head | {"choices": [choice]}
        if self._usage:
            body["usage"] = None
        return frame(json.dumps(body))
