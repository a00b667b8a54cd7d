"""What a request's line in the log says beside what HTTP knows; handlers note it here as they learn it."""

from typing import Any, TypedDict

from slhf.wire import Refinement, Usage


class RequestLog(TypedDict, total=False):
    """`request.state.log`, which handlers add to. Texts belong into `content` alone."""

    key: str
    """The API key's name."""
    status: int
    """The status of the error that ended a stream, although the answer had begun as a 200."""
    rounds: int
    """Finished Follower rounds."""
    stop_reason: str
    profile: str
    prompt_tokens: int
    completion_tokens: int
    queue_ms: float
    content: list[dict[str, Any]]
    """Conversation and answer of each choice, where the setting `log_content` is on."""


def record_result(log: RequestLog, refinement: Refinement) -> None:
    """Note how a chain ended; of several the latest to end gives the reason."""
    log["rounds"] = max(log.get("rounds", 0), refinement.rounds_run)
    log["stop_reason"] = refinement.stop_reason
    if refinement.profile is not None:
        log["profile"] = refinement.profile


def record_tokens(log: RequestLog, usage: Usage) -> None:
    """Add what a chain has used, however it ended."""
    log["prompt_tokens"] = log.get("prompt_tokens", 0) + usage.prompt_tokens
    log["completion_tokens"] = log.get("completion_tokens", 0) + usage.completion_tokens
