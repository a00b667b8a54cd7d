"""What can go wrong, as seen by a user of the client.

SLHFError
├── BundleError               a bundle directory or its slhf.json is broken
├── InputError                a file of a batch, a line of it, or a text cannot be used
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
    ├── Unavailable           503 engine_unavailable, upstream_unavailable; has retry_after
    └── DeadlineExceeded      504: the deadline passed before anything was finished
"""

from slhf.wire import ErrorBody


class SLHFError(Exception):
    """Base of everything this package raises on purpose."""


class BundleError(SLHFError):
    """A bundle cannot be used; the message names the file and the key."""


class InputError(SLHFError):
    """What was given cannot be used: the message names the file and, where it is one, the line, or the argument."""


class TransportError(SLHFError):
    """The server could not be reached, or the connection broke before the answer was complete."""


class ConfigurationError(TransportError):
    """What an argument or the environment says of the server cannot be used; the message names which, and no secret."""


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
