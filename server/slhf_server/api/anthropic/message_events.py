"""Anthropic's typed events of a streamed message."""

import json
from typing import Any

from slhf.wire import RoundDelta
from slhf_server.api.anthropic.message_answer import MessageAnswer, calls, signature, stop, texts, thought
from slhf_server.api.error_handlers import Names, body_of
from slhf_server.api.error_shapes import anthropic_error
from slhf_server.api.sse import frame
from slhf_server.errors import RequestError
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult


def event(kind: str, **fields: Any) -> bytes:
    """The frame of one event, which says its type twice."""
    return frame(json.dumps({"type": kind, **fields}), kind)


PING_EVENT = event("ping")


class MessageEvents:
    """Renders a message as its start, its blocks one after the other, each in pieces, and its end.

    Implements `Renderer`.
    """

    def __init__(self, job: Job, answer: MessageAnswer, names: Names) -> None:
        self._job = job
        self._answer = answer
        self._names = names
        self._begun = False
        self._blocks = 0  # that were opened
        self._thinking: int | None = None  # the round whose thinking block is open
        self._text: str | None = None  # what was sent of the text block, once it is open

    def event(self, number: int, event: RefinementEvent) -> list[bytes]:
        frames = [] if self._begun else self._opening()
        if isinstance(event, RoundDelta):
            return frames + self._piece(event)
        return frames + (self._ending(event) if isinstance(event, RefinementResult) else [])

    def end(self) -> list[bytes]:
        return []

    def error(self, exc: RequestError) -> bytes:
        told = anthropic_error(exc.status, body_of(exc, self._names()), self._job.request_id)
        return event("error", **told.model_dump(exclude={"type"}, exclude_none=True))

    def _opening(self) -> list[bytes]:
        self._begun = True
        return [event("message_start", message=self._answer.begun())]

    def _piece(self, piece: RoundDelta) -> list[bytes]:
        """A piece of the answer's text or, of an earlier round, of its thinking block."""
        if self._job.answers_with(piece.round):
            return self._said(piece.delta)
        frames = []
        if self._thinking != piece.round:
            frames = [*self._close_thought(), self._open(thought("", ""))]
            self._thinking = piece.round
        return [*frames, self._delta("thinking_delta", thinking=piece.delta)]

    def _said(self, text: str) -> list[bytes]:
        frames = [] if self._text is not None else [*self._close_thought(), self._open({"type": "text", "text": ""})]
        self._text = (self._text or "") + text
        return [*frames, self._delta("text_delta", text=text)] if text else frames

    def _ending(self, result: RefinementResult) -> list[bytes]:
        frames = []
        if texts(result):
            missing = result.text.removeprefix(self._text or "")  # all, where no round was streamed as the answer
            frames += [*self._said(missing), self._close()]
        else:
            frames += self._close_thought()
        for call in calls(result):
            frames += self._call(call)
        costs = self._answer.costs(result)
        return [*frames, event("message_delta", delta=stop(result), **costs), event("message_stop")]

    def _call(self, call: dict[str, Any]) -> list[bytes]:
        arguments = json.dumps(call["input"], ensure_ascii=False)
        opened = self._open(call | {"input": {}})
        return [opened, self._delta("input_json_delta", partial_json=arguments), self._close()]

    def _close_thought(self) -> list[bytes]:
        if self._thinking is None:
            return []
        signed, self._thinking = signature(self._thinking), None
        return [self._delta("signature_delta", signature=signed), self._close()]

    def _open(self, block: dict[str, Any]) -> bytes:
        self._blocks += 1
        return event("content_block_start", index=self._blocks - 1, content_block=block)

    def _delta(self, kind: str, **piece: str) -> bytes:
        return event("content_block_delta", index=self._blocks - 1, delta={"type": kind, **piece})

    def _close(self) -> bytes:
        return event("content_block_stop", index=self._blocks - 1)
