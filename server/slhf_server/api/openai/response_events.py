"""OpenAI's typed, numbered events of a streamed response. There is no [DONE]: the last event says how it ended."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count
from typing import Any

from slhf.wire import ErrorBody
from slhf_server.api.error_handlers import Names
from slhf_server.api.openai.response_answer import Item, ResponseAnswer, part, status
from slhf_server.api.sse import frame
from slhf_server.api.typed_events import TypedEvents
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult


@dataclass
class _Open:
    """The item that is being written, and what was sent of its text or its arguments."""

    key: tuple[str, int]  # its type, and of a call its index
    item: Item
    sent: str = ""


class ResponseEvents(TypedEvents):
    """Renders a response, whose parts are the items of its output."""

    def __init__(self, job: Job, answer: ResponseAnswer, names: Names) -> None:
        super().__init__(job, names)
        self._answer = answer
        self._numbers = count()
        self._open: _Open | None = None
        self._output: list[Item] = []  # the finished items

    def error(self, status: int, body: ErrorBody) -> bytes:
        return self._event("error", code=body.code or body.type, message=body.message, param=body.param)

    def _opening(self) -> list[bytes]:
        begun = self._answer.begun()
        return [self._event(f"response.{kind}", response=begun) for kind in ("created", "in_progress")]

    def _said(self, text: str) -> list[bytes]:
        opened = self._within(("message", 0), self._answer.message(self._place, None))
        delta = {"content_index": 0, "delta": text, "logprobs": []}
        return opened + (self._delta("output_text", text, **delta) if text else [])

    def _called(self, index: int, call: Mapping[str, Any]) -> list[bytes]:
        opened = []
        if self._open is None or self._open.key != ("function_call", index):
            begun = self._answer.call(self._place, call) | {"arguments": "", "status": "in_progress"}
            opened = self._within(("function_call", index), begun)
        arguments = call["function"].get("arguments")
        return opened + (self._delta("function_call_arguments", arguments, delta=arguments) if arguments else [])

    def _ending(self, result: RefinementResult) -> list[bytes]:
        frames = self._rest(result)
        for index, call in enumerate(() if self._calling else result.tool_calls or ()):
            frames += self._called(index, call)
        frames += self._close(status(result))
        response = self._answer.ended(result, self._output)
        return [*frames, self._event(f"response.{response['status']}", response=response)]

    @property
    def _place(self) -> int:
        """Where in the output the next item will stand."""
        return len(self._output) + (self._open is not None)

    def _within(self, key: tuple[str, int], begun: Item) -> list[bytes]:
        """Have this item be the open one; `begun` is how it starts."""
        if self._open is not None and self._open.key == key:
            return []
        frames = self._close("completed")
        self._open = _Open(key, begun)
        frames.append(self._event("response.output_item.added", output_index=len(self._output), item=begun))
        if key[0] == "message":
            frames.append(self._of_item("response.content_part.added", content_index=0, part=part("")))
        return frames

    def _delta(self, kind: str, sent: str, **fields: Any) -> list[bytes]:
        assert self._open is not None
        self._open.sent += sent
        return [self._of_item(f"response.{kind}.delta", **fields)]

    def _close(self, state: str) -> list[bytes]:
        """End the open item, if there is one."""
        if (open_ := self._open) is None:
            return []
        if open_.key[0] == "message":
            text = {"content_index": 0, "text": open_.sent, "logprobs": []}
            frames = [
                self._of_item("response.output_text.done", **text),
                self._of_item("response.content_part.done", content_index=0, part=part(open_.sent)),
            ]
            done = open_.item | {"status": state, "content": [part(open_.sent)]}
        else:
            told = {"name": open_.item["name"], "arguments": open_.sent}
            frames = [self._of_item("response.function_call_arguments.done", **told)]
            done = open_.item | {"status": state, "arguments": open_.sent}
        frames.append(self._event("response.output_item.done", output_index=len(self._output), item=done))
        self._output.append(done)
        self._open = None
        return frames

    def _of_item(self, kind: str, **fields: Any) -> bytes:
        assert self._open is not None
        return self._event(kind, item_id=self._open.item["id"], output_index=len(self._output), **fields)

    def _event(self, kind: str, **fields: Any) -> bytes:
        return frame(json.dumps({"type": kind, "sequence_number": next(self._numbers), **fields}), kind)
