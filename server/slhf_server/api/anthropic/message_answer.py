"""Anthropic's message object: begun, and ended."""

import json
from collections.abc import Mapping
from typing import Any

from slhf.wire import FinishReason, RefineOptions, Usage
from slhf_server.api.results import speaks
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult

_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}


class MessageAnswer:
    """The message of one request."""

    def __init__(self, job: Job, options: RefineOptions) -> None:
        self._job = job
        self._options = options

    def begun(self) -> dict[str, Any]:
        """The message before its first block; what its prompt costs is told at its end, as the sum of all rounds."""
        return self._message([]) | {"stop_reason": None, "stop_sequence": None, "usage": usage(Usage())}

    def whole(self, result: RefinementResult) -> dict[str, Any]:
        """The finished message, with the report of how it came about."""
        thoughts = self._earlier_rounds(result) if self._options.show_rounds else []
        message = self._message([*thoughts, *texts(result), *calls(result)])
        return message | stop(result) | self.costs(result)

    def costs(self, result: RefinementResult) -> dict[str, Any]:
        """The last keys of the message: tokens, and our report."""
        report = result.report(bool(self._options.return_rounds))
        return {"usage": usage(result.usage), "refinement": report.model_dump()}

    def _message(self, content: list[dict[str, Any]]) -> dict[str, Any]:
        job = self._job
        return {"id": job.id, "type": "message", "role": "assistant", "model": job.model, "content": content}

    def _earlier_rounds(self, result: RefinementResult) -> list[dict[str, Any]]:
        """A block for each round before the returned one. A client knows its own draft."""
        report = result.refinement
        earlier = [one for one in report.rounds[: report.returned_round] if one.role != "client"]
        return [thought(one.text, signature(one.round)) for one in earlier]


def texts(result: RefinementResult) -> list[dict[str, Any]]:
    """The block of the answer's text; a turn that calls tools may have none."""
    return [{"type": "text", "text": result.text}] if speaks(result) else []


def calls(result: RefinementResult) -> list[dict[str, Any]]:
    """A block for each call of a tool."""
    return [tool_use(call) for call in result.tool_calls or ()]


def thought(text: str, signed: str) -> dict[str, Any]:
    return {"type": "thinking", "thinking": text, "signature": signed}


def signature(number: int) -> str:
    """Which round a thinking block is. Clients send it back unread; to some a block without one is no thought."""
    return f"round-{number}"


def stop(result: RefinementResult) -> dict[str, Any]:
    """Why the message ended."""
    if result.finish_reason == "stop" and result.stop_sequence is not None:
        return {"stop_reason": "stop_sequence", "stop_sequence": result.stop_sequence}
    return {"stop_reason": _STOP_REASONS[result.finish_reason], "stop_sequence": None}


def usage(told: Usage) -> dict[str, Any]:
    """Anthropic counts the prompt's cached tokens apart from the others."""
    cached = told.prompt_tokens_details.cached_tokens
    return {
        "input_tokens": told.prompt_tokens - cached,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": cached,
        "output_tokens": told.completion_tokens,
        "output_tokens_details": {"thinking_tokens": told.completion_tokens_details.reasoning_tokens},
    }


def tool_use(call: Mapping[str, Any]) -> dict[str, Any]:
    """The block of a call."""
    function = call.get("function") or {}
    return {"type": "tool_use", "id": call["id"], "name": function.get("name", ""), "input": _input(function)}


def _input(function: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments as an object, which Anthropic's clients rely on; a text that is none is kept under a key."""
    arguments = function.get("arguments") or "{}"
    try:
        read = json.loads(arguments)
    except (ValueError, RecursionError):
        read = arguments
    return read if isinstance(read, dict) else {"arguments": read}
