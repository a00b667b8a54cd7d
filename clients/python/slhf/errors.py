"""What can go wrong, as seen by a user of the client.

SLHFError
├── BundleError               a bundle directory or its slhf.json is broken
├── InputError                a file of a batch, a line of it, or a text cannot be used
├── SandboxError              this host cannot hold back the programs of answers, so that none runs
├── TransportError            no answer: refused, reset, stream cut short
│   ├── ConfigurationError    nothing was sent: address, key, proxy or certificates cannot be used
│   └── TransportTimeout      no answer in time
└── APIError                  the server answered with an error; has status, type, param, code, request_id
    ├── BadRequest            400 invalid_request_error
    │   └── ContextLengthExceeded   400 context_length_exceeded
    ├── AuthenticationError   401
    ├── ModelNotFound         404 model_not_found
    ├── PayloadTooLarge       413
    ├── RateLimited           429; has retry_after
    ├── Unavailable           503 engine_unavailable, upstream_unavailable, verdicts_unavailable; has retry_after
    └── DeadlineExceeded      504: the deadline passed before anything was finished
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from slhf.wire import ErrorBody


class SLHFError(Exception):
    """Base of everything this package raises on purpose."""


def where_and_what(problem: Mapping[str, Any]) -> str:
    """One of pydantic's errors in words: `messages.0.role: Input should be ...`."""
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")


class BundleError(SLHFError):
    """A bundle cannot be used; the message names the file and the key."""


class InputError(SLHFError):
    """A file of a batch, one of its lines, or an argument cannot be used; the message names it."""


class SandboxError(SLHFError):
    """Programs of answers cannot run on this host; the message says what each way of confining them lacks."""


class TransportError(SLHFError):
    """The server could not be reached, or the connection broke before the answer was complete."""


class ConfigurationError(TransportError):
    """An argument or a variable that says how to reach the server cannot be used; the message names it, no secret."""


class TransportTimeout(TransportError):
    """The server did not answer in time."""


class APIError(SLHFError):
    """The server answered with an OpenAI-shaped error."""

    def __init__(
        self, status: int, body: ErrorBody, *, request_id: str | None = None, retry_after: float | None = None
    ) -> None:
        super().__init__(body.message)
        self.status = status
        self.message = body.message
        self.type = body.type
        self.param = body.param
        self.code = body.code
        self.request_id = request_id
        self.retry_after = retry_after
        """Seconds the server asks us to wait; None: it did not say."""


class BadRequest(APIError):
    """400: the request is wrong; sending it again cannot help."""


class ContextLengthExceeded(BadRequest):
    """400: conversation and draft do not fit the model's context; the message states both lengths."""


class AuthenticationError(APIError):
    """401: the key is missing or wrong."""


class ModelNotFound(APIError):
    """404: the server does not serve that model."""


class PayloadTooLarge(APIError):
    """413: the body is over the server's limit."""


class RateLimited(APIError):
    """429: the queue is full, or the key's limit is reached."""


class Unavailable(APIError):
    """503: the engine or an upstream is not there (yet)."""


class DeadlineExceeded(APIError):
    """504: the deadline passed before anything was finished."""


@dataclass(frozen=True, slots=True)
class ErrorKind:
    """A row of the contract's error table (docs/api.md)."""

    status: int
    exception: type[APIError]
    """What the client raises."""
    type: str
    """OpenAI's word for the kind of error."""


_REQUEST, _SERVER = "invalid_request_error", "server_error"
ERRORS: dict[str, ErrorKind] = {
    "context_length_exceeded": ErrorKind(400, ContextLengthExceeded, _REQUEST),
    "token_budget_exceeded": ErrorKind(400, BadRequest, _REQUEST),
    "invalid_api_key": ErrorKind(401, AuthenticationError, _REQUEST),
    "model_not_found": ErrorKind(404, ModelNotFound, _REQUEST),  # any other 404 is a wrong address, no missing model
    "refinement_not_found": ErrorKind(404, APIError, _REQUEST),
    "request_timeout": ErrorKind(408, APIError, _REQUEST),
    "request_too_large": ErrorKind(413, PayloadTooLarge, _REQUEST),
    "unsupported_content_encoding": ErrorKind(415, APIError, _REQUEST),
    "rate_limit_exceeded": ErrorKind(429, RateLimited, "rate_limit_error"),
    "request_header_fields_too_large": ErrorKind(431, APIError, _REQUEST),
    "engine_error": ErrorKind(500, APIError, _SERVER),
    "internal_error": ErrorKind(500, APIError, _SERVER),
    "upstream_error": ErrorKind(502, APIError, _SERVER),
    "engine_unavailable": ErrorKind(503, Unavailable, _SERVER),
    "upstream_unavailable": ErrorKind(503, Unavailable, _SERVER),
    "verdicts_unavailable": ErrorKind(503, Unavailable, _SERVER),
    "deadline_exceeded": ErrorKind(504, DeadlineExceeded, "timeout_error"),
}
"""The table, by code. The server's classes of errors name a code and take the rest from here. The client finds its
exception here, and the status of an error event, before which the status line has said 200. A test compares docs."""

_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequest,
    401: AuthenticationError,
    413: PayloadTooLarge,
    429: RateLimited,
    503: Unavailable,
    504: DeadlineExceeded,
}
"""The exception for an error with another code or none, such as a proxy's; any other status is an APIError."""


def exception_for(status: int, code: str | None) -> type[APIError]:
    """The exception of an error that came with this status and this code."""
    kind = ERRORS.get(code or "")
    return kind.exception if kind is not None and kind.status == status else _BY_STATUS.get(status, APIError)


def status_in_stream(body: ErrorBody) -> int:
    """The status that an error event would have had, if it had come before the answer began."""
    kind = ERRORS.get(body.code or "")
    return kind.status if kind is not None else 400 if body.type == _REQUEST else 500
