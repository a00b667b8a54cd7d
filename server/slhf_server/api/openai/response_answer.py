"""OpenAI's response object and the items of its output: a message, and the calls of functions."""

import time
from collections.abc import Mapping
from typing import Any

from slhf.wire import Usage
from slhf_server.api.openai.response_request import ResponseRequest
from slhf_server.api.results import speaks
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult

Item = dict[str, Any]
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
"""OpenAI's reason for each finish reason of an answer that is not whole."""


class ResponseAnswer:
    """The response of one request in its states. An item is known by its place in the output."""

    def __init__(self, job: Job, body: ResponseRequest) -> None:
        self._job = job
        self._body = body
        self._created = int(time.time())

    def begun(self) -> dict[str, Any]:
        return self._response("in_progress", [])

    def whole(self, result: RefinementResult) -> dict[str, Any]:
        items = [self.message(0, result.text)] if speaks(result) else []
        items += [self.call(place, call) for place, call in enumerate(result.tool_calls or (), start=len(items))]
        items[-1]["status"] = status(result)
        return self.ended(result, items)

    def ended(self, result: RefinementResult, output: list[Item]) -> dict[str, Any]:
        response = self._response(status(result), output)
        if (reason := _INCOMPLETE.get(result.finish_reason)) is not None:
            response["incomplete_details"] = {"reason": reason}
        report = result.report(bool(self._body.refine.return_rounds))
        return response | {"usage": _usage(result.usage), "refinement": report.model_dump()}

    def message(self, place: int, text: str | None) -> Item:
        """A message; without a text it has just begun."""
        state = {"status": "in_progress", "content": []} if text is None else _completed(content=[part(text)])
        return {"id": self._id("msg", place), "type": "message", "role": "assistant", **state}

    def call(self, place: int, call: Mapping[str, Any]) -> Item:
        """A call of a function as chat has it."""
        function = call.get("function") or {}
        told = {"call_id": call["id"], "name": function.get("name", ""), "arguments": function.get("arguments") or ""}
        return {"id": self._id("fc", place), "type": "function_call", **_completed(**told)}

    def _id(self, kind: str, place: int) -> str:
        return self._job.id.replace("resp-", f"{kind}-", 1) + (f"-{place}" if place else "")

    def _response(self, state: str, output: list[Item]) -> dict[str, Any]:
        body = self._body
        return {
            "id": self._job.id,
            "object": "response",
            "created_at": self._created,
            "status": state,
            "model": self._job.model,
            "output": output,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": body.temperature,
            "top_p": body.top_p,
            "text": body.text.told(),
            **body.tools_told(),
            "previous_response_id": None,
            "truncation": "disabled",
            "store": False,
            "metadata": {},
            "usage": None,
        }


def part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def status(result: RefinementResult) -> str:
    return "incomplete" if result.finish_reason in _INCOMPLETE else "completed"


def _completed(**fields: Any) -> dict[str, Any]:
    return {"status": "completed", **fields}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.prompt_tokens_details.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": usage.completion_tokens_details.reasoning_tokens},
        "total_tokens": usage.total_tokens,
    }
