"""The log: a JSON object per line on standard error, or plain text for a person who watches."""

import json
import logging
from datetime import UTC, datetime
from typing import Any, Literal

_NOT_EXTRA = {
    *vars(logging.makeLogRecord({})),
    "message",
    "asctime",
    "taskName",
    "color_message",  # uvicorn's message again, with escape codes
    "vllm_process_name",  # vLLM gives it to every record of the process
}


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
    """Send every logger of the process, and Python's warnings, to standard error."""
    handler = logging.StreamHandler()
    text = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s")
    handler.setFormatter(JSONFormatter() if log_format == "json" else text)
    logging.basicConfig(level=level.upper(), handlers=[handler])
    logging.captureWarnings(True)
