"""`POST /v1/chat/completions`: OpenAI's chat, answered by Leader and k Follower rounds."""

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from slhf.wire import TokenLogprob
from slhf_server.api.body import JsonRoute
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import RESPONSES, Names
from slhf_server.api.headers import refinement_headers, trace_headers
from slhf_server.api.openai.chat_request import ChatRequest, GenerationRequest
from slhf_server.api.openai.chat_schema import ChatCompletion
from slhf_server.api.openai.chunks import Chunks
from slhf_server.api.outcomes import outcomes, together
from slhf_server.api.streaming import stream
from slhf_server.models.structured_output.response_format import structure_of
from slhf_server.refinement.job import Endpoint, Job
from slhf_server.refinement.planner import Ask
from slhf_server.refinement.state import Outcome
from slhf_server.service import Service

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=RESPONSES)
async def chat_completions(body: ChatRequest, request: Request) -> Response:
    service: Service = request.app.state.service
    jobs = await planned(request, body, "chat", body.names)
    if body.stream:
        return await stream(service, jobs, ChatChunks(jobs[0], body))
    ended = await unless_disconnected(request, outcomes(service.run(jobs)))
    choices = [_choice(number, outcome, body) for number, outcome in ended.items()]
    return answered(jobs[0], ended, choices, body, "chat.completion")


async def planned(request: Request, body: ChatRequest, endpoint: Endpoint, names: Names) -> list[Job]:
    """The jobs of a request that is a chat or can be read as one. Raises what refuses it.

    `names`: what the client calls the parameters that an error, now or later, names.
    """
    service: Service = request.app.state.service
    request.state.names = names
    planner = service.planner()
    body.suits(planner.drafter(body.model, body.refine))
    structure = None if body.response_format is None else structure_of(body.response_format, service.workers)
    ask = Ask(
        endpoint=endpoint,
        request_id=request.state.request_id,
        model=body.model,
        messages=body.messages,
        options=body.refine,
        sampling=body.sampling(structure),
        deltas="none" if not body.stream else "all" if body.refine.show_rounds else "last",
        choices=body.n or 1,
        cache_salt=request.app.state.keyring.cache_salt(request.state.log.get("key")),
        log=request.state.log,
        trace=trace_headers(request.headers),
    )
    jobs = planner.plan(ask)
    request.state.model = jobs[0].model
    if structure is not None:
        await jobs[0].deadline.wait_for(structure.check(grammar=jobs[0].engine_plays))
    return jobs


def answered(
    job: Job, ended: Mapping[int, Outcome], choices: list[dict[str, Any]], body: GenerationRequest, kind: str
) -> Response:
    """The whole answer. Of several choices, each has a report of its own beside the one for all."""
    with_rounds = bool(body.refine.return_rounds)
    whole = together(ended)
    if len(ended) > 1:
        reports = (outcome.report(with_rounds).model_dump() for outcome in ended.values())
        choices = [choice | {"refinement": report} for choice, report in zip(choices, reports, strict=True)]
    answer = {
        "id": job.id,
        "object": kind,
        "created": int(time.time()),
        "model": job.model,
        "choices": choices,
        "usage": whole.usage.model_dump(),
        "refinement": whole.report(with_rounds).model_dump(),
    }
    return Response(json_bytes(answer), media_type="application/json", headers=refinement_headers(whole))


def json_bytes(answer: dict[str, Any]) -> bytes:
    """In UTF-8. Half of a character, which a model's text may hold, is escaped as JSON has it."""
    return json.dumps(answer, ensure_ascii=False).encode("utf-8", "backslashreplace")


def _choice(number: int, outcome: Outcome, body: ChatRequest) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": outcome.text, "refusal": None}
    if outcome.tool_calls:
        message |= {"content": outcome.text or None, "tool_calls": outcome.tool_calls}
    if body.refine.show_rounds:
        earlier = outcome.refinement.rounds[: outcome.refinement.returned_round]
        message["reasoning_content"] = "\n\n".join(finished.text for finished in earlier)
    return {
        "index": number,
        "message": message,
        "finish_reason": outcome.finish_reason,
        "logprobs": _logprobs(outcome.logprobs) if body.logprobs else None,
    }


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": [token.model_dump() for token in tokens], "refusal": None}


class ChatChunks(Chunks):
    """For each choice role, content, finish; earlier rounds as `reasoning_content`, where they are shown."""

    object = "chat.completion.chunk"

    def __init__(self, job: Job, body: GenerationRequest) -> None:
        super().__init__(job, body)
        self._opened: set[int] = set()

    def opening(self, number: int) -> list[bytes]:
        if number in self._opened:
            return []
        self._opened.add(number)
        return [self._chunk(number, {"role": "assistant", "content": ""})]

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        return self._chunk(number, {"content": text}, logprobs=_logprobs(logprobs) if logprobs else None)

    def aside(self, number: int, text: str) -> list[bytes]:
        return [self._chunk(number, {"reasoning_content": text})]

    def ending(self, number: int, outcome: Outcome) -> list[bytes]:
        calls = [{"index": index, **call} for index, call in enumerate(outcome.tool_calls or ())]
        parts = [self._chunk(number, {"tool_calls": calls})] if calls else []
        return [*parts, self._chunk(number, {}, finish_reason=outcome.finish_reason)]

    def _chunk(
        self,
        number: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        return self.chunk({"index": number, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs})
