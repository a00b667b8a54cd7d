"""Anthropic's typed events of a streamed message."""

import json
from collections.abc import Mapping
from typing import Any

from slhf.wire import ErrorBody, RoundDelta
from slhf_server.api.anthropic.message_answer import MessageAnswer, calls, signature, stop, thought, tool_use
from slhf_server.api.error_handlers import Names
from slhf_server.api.error_shapes import anthropic_error
from slhf_server.api.sse import frame
from slhf_server.api.typed_events import TypedEvents
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult


def event(kind: str, **fields: Any) -> bytes:
    """The frame of one event, which says its type twice."""
    return frame(json.dumps({"type": kind, **fields}), kind)


PING_EVENT = event("ping")
_HOLDS = {"input_json": "partial_json"}
"""What a delta's text is called, where not by the delta's kind."""


class MessageEvents(TypedEvents):
    """Renders a message, whose parts are blocks."""

    def __init__(self, job: Job, answer: MessageAnswer, names: Names) -> None:
        super().__init__(job, names)
        self._answer = answer
        self._blocks = 0  # that were opened
        self._open: tuple[str, int] | None = None  # the open block: its kind, and its round or its call's index

    def error(self, status: int, body: ErrorBody) -> bytes:
        told = anthropic_error(status, body, self._job.request_id)
        return event("error", **told.model_dump(exclude={"type"}, exclude_none=True))

    def _opening(self) -> list[bytes]:
        return [event("message_start", message=self._answer.begun())]

    def _thought(self, piece: RoundDelta) -> list[bytes]:
        return [*self._within("thinking", piece.round, thought("", "")), self._delta("thinking", piece.delta)]

    def _said(self, text: str) -> list[bytes]:
        frames = self._within("text", 0, {"type": "text", "text": ""})
        return [*frames, self._delta("text", text)] if text else frames

    def _called(self, index: int, call: Mapping[str, Any]) -> list[bytes]:
        opened = self._open == ("call", index)
        frames = [] if opened else self._within("call", index, tool_use(call) | {"input": {}})
        arguments = call["function"].get("arguments")
        return [*frames, self._delta("input_json", arguments)] if arguments else frames

    def _ending(self, result: RefinementResult) -> list[bytes]:
        frames = self._rest(result)
        for index, call in enumerate(() if self._calling else calls(result)):
            arguments = json.dumps(call["input"], ensure_ascii=False)
            frames += [*self._within("call", index, call | {"input": {}}), self._delta("input_json", arguments)]
        frames += self._close()
        costs = self._answer.costs(result)
        return [*frames, event("message_delta", delta=stop(result), **costs), event("message_stop")]

    def _within(self, kind: str, number: int, begun: dict[str, Any]) -> list[bytes]:
        """Have this block be the open one; `begun` is how it starts."""
        if self._open == (kind, number):
            return []
        closed = self._close()
        self._open = kind, number
        self._blocks += 1
        return [*closed, event("content_block_start", index=self._blocks - 1, content_block=begun)]

    def _delta(self, kind: str, text: str) -> bytes:
        """A piece of the open block."""
        piece = {"type": f"{kind}_delta", _HOLDS.get(kind, kind): text}
        return event("content_block_delta", index=self._blocks - 1, delta=piece)

    def _close(self) -> list[bytes]:
        """End the open block, if there is one; a round's thoughts are signed."""
        if self._open is None:
            return []
        (kind, number), self._open = self._open, None
        signed = [self._delta("signature", signature(number))] if kind == "thinking" else []
        return [*signed, event("content_block_stop", index=self._blocks - 1)]
