"""`POST /v1/completions`: OpenAI's legacy completions, answered as a chat of one user turn."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from slhf.history import Message
from slhf.wire import TokenLogprob
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import RESPONSES
from slhf_server.api.openai.chat_request import GenerationRequest
from slhf_server.api.openai.chunks import Chunks
from slhf_server.api.openai.completion_request import CompletionRequest
from slhf_server.api.openai.generation import answered
from slhf_server.api.planning import planned
from slhf_server.api.results import collect_results
from slhf_server.api.streaming import stream
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/completions", responses=RESPONSES)
async def completions(body: CompletionRequest, request: Request, service: RunningService) -> Response:
    params = body.params("completions", request.state.request_id, [Message(role="user", content=body.text)])
    jobs = await planned(request, service, params, body.names)
    if body.stream:
        return await stream(service, jobs, CompletionChunks(jobs[0], body))
    ended = await unless_disconnected(request, collect_results(service.run(jobs)))
    choices = [
        {
            "index": number,
            "text": result.text,
            "finish_reason": result.finish_reason,
            "logprobs": None if body.logprobs is None else _logprobs(result.logprobs, 0),
        }
        for number, result in ended.items()
    ]
    return answered(jobs[0], ended, choices, body, "text_completion")


def _logprobs(tokens: Sequence[TokenLogprob], offset: int) -> dict[str, Any]:
    """The legacy shape, columns instead of rows; `offset` is the first token's place in the text, in characters."""
    offsets = [offset]
    for one in tokens:
        offsets.append(offsets[-1] + len(one.token))
    return {
        "tokens": [one.token for one in tokens],
        "token_logprobs": [one.logprob for one in tokens],
        "top_logprobs": [{top.token: top.logprob for top in one.top_logprobs} for one in tokens],
        "text_offset": offsets[:-1],
    }


class CompletionChunks(Chunks):
    """The chunks of completions: for each choice pieces of text, then its end."""

    object = "text_completion"

    def __init__(self, job: Job, body: GenerationRequest) -> None:
        super().__init__(job, body)
        self._sent: Counter[int] = Counter()  # characters of each choice

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        offset = self._sent[number]
        self._sent[number] += len(text)
        return self._chunk(number, text, logprobs=_logprobs(logprobs, offset) if logprobs else None)

    def ending(self, number: int, result: RefinementResult) -> list[bytes]:
        return [self._chunk(number, "", finish_reason=result.finish_reason)]

    def _chunk(
        self, number: int, text: str, *, logprobs: dict[str, Any] | None = None, finish_reason: str | None = None
    ) -> bytes:
        return self.chunk({"index": number, "text": text, "finish_reason": finish_reason, "logprobs": logprobs})
