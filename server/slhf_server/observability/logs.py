"""The log: one JSON object a line on standard error, or plain text for a person who watches."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal, TypedDict

from slhf.wire import Refinement, Usage

_NOT_EXTRA = {
    *vars(logging.makeLogRecord({})),
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's message again, with escape codes
    "vllm_process_name",  # vLLM gives it to every record of the process
}


class RequestLog(TypedDict, total=False):
    """`request.state.log`: what handlers add to a request's line. Texts belong into `content` alone."""

    key: str
    """The API key's name."""
    model: str
    """The served model's name."""
    stream: bool
    status: int
    """Of the error that ended a stream, whose answer had begun as a 200."""
    rounds: int
    """Finished Follower rounds."""
    stop_reason: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    content: list[dict[str, Any]]
    """Conversation and answer of each choice; only where the setting `log_content` is on."""


def add(log: RequestLog, refinement: Refinement, usage: Usage) -> None:
    """Note how a chain ended; of several, tokens add up and the latest to end gives the reason."""
    log["rounds"] = max(log.get("rounds", 0), refinement.rounds_run)
    log["stop_reason"] = refinement.stop_reason
    log["prompt_tokens"] = log.get("prompt_tokens", 0) + usage.prompt_tokens
    log["completion_tokens"] = log.get("completion_tokens", 0) + usage.completion_tokens


class JSONFormatter(logging.Formatter):
    """A record as one line of JSON: `extra` fields beside the message, an exception as one string."""

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        line |= {name: value for name, value in vars(record).items() if name not in _NOT_EXTRA}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            line["stack"] = self.formatStack(record.stack_info)
        return json.dumps(line, default=str)


def configure(level: str, log_format: Literal["json", "text"]) -> None:
    """Every logger of the process, and Python's warnings, to standard error."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter() if log_format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
