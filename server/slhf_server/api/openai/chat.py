"""`POST /v1/chat/completions`: OpenAI's chat, answered by Leader and k Follower rounds."""

from collections.abc import Sequence
from typing import Any

from fastapi import APIRouter, Request, Response

from slhf.wire import TokenLogprob
from slhf_server.api.body import JsonRoute
from slhf_server.api.dependencies import RunningService
from slhf_server.api.disconnect import unless_disconnected
from slhf_server.api.error_handlers import RESPONSES
from slhf_server.api.openai.chat_request import ChatRequest, GenerationRequest
from slhf_server.api.openai.chat_schema import ChatCompletion
from slhf_server.api.openai.chunks import Chunks
from slhf_server.api.openai.generation import answered
from slhf_server.api.planning import planned
from slhf_server.api.results import collect_results
from slhf_server.api.streaming import stream
from slhf_server.models.reasoning import is_blank
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult

router = APIRouter(route_class=JsonRoute)


@router.post("/v1/chat/completions", response_model=ChatCompletion, responses=RESPONSES)
async def chat_completions(body: ChatRequest, request: Request, service: RunningService) -> Response:
    params = body.params("chat", request.state.request_id, body.messages)
    jobs = await planned(request, service, params, body.names, response_format=body.response_format)
    if body.stream:
        return await stream(service, jobs, ChatChunks(jobs[0], body))
    ended = await unless_disconnected(request, collect_results(service.run(jobs)))
    choices = [_choice(number, result, body) for number, result in ended.items()]
    return answered(jobs[0], ended, choices, body, "chat.completion")


def _choice(number: int, result: RefinementResult, body: ChatRequest) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": result.text, "refusal": None}
    if result.tool_calls:
        message |= {"content": None if is_blank(result.text) else result.text, "tool_calls": result.tool_calls}
    if body.refine.show_rounds:
        earlier = result.refinement.rounds[: result.refinement.returned_round]
        message |= _reasoning("\n\n".join(finished.text for finished in earlier))
    return {
        "index": number,
        "message": message,
        "finish_reason": result.finish_reason,
        "logprobs": _logprobs(result.logprobs) if body.logprobs else None,
    }


def _reasoning(text: str) -> dict[str, Any]:
    """Under both of the names that clients read: DeepSeek's, and OpenRouter's and vLLM's."""
    return {"reasoning_content": text, "reasoning": text}


def _logprobs(tokens: Sequence[TokenLogprob]) -> dict[str, Any]:
    return {"content": [token.model_dump() for token in tokens], "refusal": None}


class ChatChunks(Chunks):
    """Chat's chunks: for each choice the role, its content and its end, and earlier rounds as `reasoning_content`."""

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

    def calls(self, number: int, pieces: Sequence[dict[str, Any]]) -> list[bytes]:
        return [self._chunk(number, {"tool_calls": [*pieces]})] if pieces else []

    def aside(self, number: int, text: str) -> list[bytes]:
        return [self._chunk(number, _reasoning(text))]

    def ending(self, number: int, result: RefinementResult) -> list[bytes]:
        sent = number in self.calling
        calls = [] if sent else [{"index": index, **call} for index, call in enumerate(result.tool_calls or ())]
        parts = [self._chunk(number, {"tool_calls": calls})] if calls else []
        return [*parts, self._chunk(number, {}, finish_reason=result.finish_reason)]

    def _chunk(
        self,
        number: int,
        delta: dict[str, Any],
        *,
        logprobs: dict[str, Any] | None = None,
        finish_reason: str | None = None,
    ) -> bytes:
        return self.chunk({"index": number, "delta": delta, "finish_reason": finish_reason, "logprobs": logprobs})
