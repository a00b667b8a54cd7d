"""The shape of errors: OpenAI's everywhere but on the paths of Anthropic's API, which have Anthropic's.

The path alone decides, so that what is refused before any route is at work has the right shape, too.
"""

from typing import Literal

from pydantic import BaseModel
from starlette.types import Scope

from slhf.wire import ErrorBody, ErrorResponse
from slhf_server.api.route import route_path

_ANTHROPICS = "/v1/messages"
_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}
"""Anthropic's type by status; any other is an invalid_request_error below 500, and an api_error above."""

_CODES = {"thread": "thread_unsupported_request"}
"""Anthropic's own codes by parameter: at this one its SDK sends the whole conversation instead."""


class AnthropicErrorDetails(BaseModel):
    error_code: str | None = None
    """Our code, for programs."""
    param: str | None = None
    """The place in the request that is wrong."""


class AnthropicErrorBody(BaseModel):
    type: str
    message: str
    details: AnthropicErrorDetails | None = None


class AnthropicErrorResponse(BaseModel):
    """Anthropic's error object."""

    type: Literal["error"] = "error"
    error: AnthropicErrorBody
    request_id: str | None = None


def is_anthropics(scope: Scope) -> bool:
    """Whether the request is for Anthropic's API, or for what it has beyond this server."""
    return f"{route_path(scope)}/".startswith(f"{_ANTHROPICS}/")


def anthropic_error(status: int, body: ErrorBody, request_id: str | None) -> AnthropicErrorResponse:
    """The error in Anthropic's shape."""
    kind = _TYPES.get(status, "invalid_request_error" if status < 500 else "api_error")
    told = {"error_code": body.code or _CODES.get(body.param or ""), "param": body.param}
    details = AnthropicErrorDetails(**told) if any(told.values()) else None
    error = AnthropicErrorBody(type=kind, message=body.message, details=details)
    return AnthropicErrorResponse(error=error, request_id=request_id)


def error_bytes(scope: Scope | None, status: int, body: ErrorBody, request_id: str | None = None) -> bytes:
    """The error in the shape that the request's path has; without a request in OpenAI's."""
    if scope is None or not is_anthropics(scope):
        return ErrorResponse(error=body).model_dump_json().encode()
    return anthropic_error(status, body, request_id).model_dump_json(exclude_none=True).encode()
