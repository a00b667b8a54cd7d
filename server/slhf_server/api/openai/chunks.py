"""What OpenAI's streamed chunks of chat and completions have in common."""

import json
import time
from collections.abc import Sequence
from typing import Any

from slhf.wire import ErrorBody, ErrorResponse, RoundDelta, TokenLogprob
from slhf_server.api.openai.chat_request import GenerationRequest
from slhf_server.api.results import combined
from slhf_server.api.sse import DONE, frame
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult


class Chunks:
    """Renders for each choice the pieces of the answering round and its end, then the usage and [DONE].

    Implements `Renderer`. A subclass says what its endpoint's chunks look like.
    """

    object: str

    def __init__(self, job: Job, body: GenerationRequest) -> None:
        self.job = job
        self.body = body
        self.names = body.names
        self._head = {"id": job.id, "object": self.object, "created": int(time.time()), "model": job.model}
        self._answered: set[int] = set()  # choices of whose answering round a piece was sent
        self.calling: set[int] = set()  # choices of which pieces of tool calls were sent
        self._ended: dict[int, RefinementResult] = {}

    def opening(self, number: int) -> list[bytes]:
        """What comes before a choice's first event."""
        return []

    def piece(self, number: int, text: str, logprobs: Sequence[TokenLogprob]) -> bytes:
        """A piece of the answer."""
        raise NotImplementedError

    def calls(self, number: int, pieces: Sequence[dict[str, Any]]) -> list[bytes]:
        """Pieces of tool calls, which chat alone has."""
        return []

    def aside(self, number: int, text: str) -> list[bytes]:
        """A piece of an earlier round."""
        return []

    def ending(self, number: int, result: RefinementResult) -> list[bytes]:
        """What follows a choice's last piece."""
        raise NotImplementedError

    def event(self, number: int, event: RefinementEvent) -> list[bytes]:
        if isinstance(event, RoundDelta):
            return self.opening(number) + self._delta(number, event)
        return self.opening(number) + (self._end_of(number, event) if isinstance(event, RefinementResult) else [])

    def end(self) -> list[bytes]:
        if not self.body.with_usage:
            return [DONE]
        whole = combined(dict(sorted(self._ended.items())))
        report = whole.report(bool(self.body.refine.return_rounds))
        totals = {"choices": [], "usage": whole.usage.model_dump(), "refinement": report.model_dump()}
        return [frame(json.dumps(self._head | totals)), DONE]

    def error(self, status: int, body: ErrorBody) -> bytes:
        return frame(ErrorResponse(error=body).model_dump_json())

    def chunk(self, choice: dict[str, Any]) -> bytes:
        body: dict[str, Any] = self._head | {"choices": [choice]}
        return frame(json.dumps(body | {"usage": None} if self.body.with_usage else body))

    def _delta(self, number: int, event: RoundDelta) -> list[bytes]:
        if event.tool_calls or number in self.calling:
            self.calling.add(number)
            self._answered.add(number)
            text = [self.piece(number, event.delta, event.logprobs)] if event.delta else []
            return text + self.calls(number, event.tool_calls)
        if not self.job.answers_with(event.round):
            return self.aside(number, event.delta)
        self._answered.add(number)
        return [self.piece(number, event.delta, event.logprobs)]

    def _end_of(self, number: int, result: RefinementResult) -> list[bytes]:
        """A choice's last frames. An answer that was not streamed (a draft, structured output) comes in one piece."""
        self._ended[number] = result
        whole = [] if number in self._answered or not result.text else [result.text]
        return [self.piece(number, text, result.logprobs) for text in whole] + self.ending(number, result)
