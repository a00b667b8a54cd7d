"""The errors that a request can be answered with. A class names its row of the contract's table by `code`.

RequestError                      status, type, code, param: becomes OpenAI's error object (api/error_handlers.py)
├── BadRequest               400  invalid_request_error
│   ├── UnknownToken                     an id that stands for no token
│   └── ContextLengthExceeded   400  context_length_exceeded
│       └── UpstreamContextExceeded      the same, said by an upstream, which keeps the lengths to itself
├── InvalidAPIKey            401  invalid_api_key (WWW-Authenticate)
├── ModelNotFound            404  model_not_found
├── RefinementNotFound       404  refinement_not_found: nothing to vote on
├── RequestTimeout           408  request_timeout: head or body did not arrive in time
├── BodyTooLarge             413  request_too_large
├── EncodedBody              415  unsupported_content_encoding (Accept-Encoding)
├── HeadersTooLarge          431  request_header_fields_too_large
├── RateLimited              429  rate_limit_exceeded (Retry-After): an API key's own limit
├── QueueFull                429  rate_limit_exceeded (Retry-After)
├── InternalError            500  internal_error: a bug; the log has it under the request's id
├── EngineFailed             500  engine_error: this completion failed, the engine lives
├── EngineUnavailable        503  engine_unavailable (Retry-After): loading, shutting down, or dead
├── UpstreamFailed           502  upstream_error: the upstream answered, and its answer is none
├── UpstreamUnavailable      503  upstream_unavailable (Retry-After): no answer, too busy, or its breaker is open
├── VerdictsUnavailable      503  verdicts_unavailable (Retry-After): their file is locked, broken, or its disk full
└── Stopped                       ends a refinement early; answered only when nothing was finished
    ├── DeadlineExceeded     504  deadline_exceeded
    ├── TokenBudgetExceeded  400  token_budget_exceeded
    └── InvalidStructure          a Follower round that response_format does not admit: discarded
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

from slhf.errors import ERRORS
from slhf.wire import StopReason


class RequestError(Exception):
    """The base class. Such an error is sent to the client as it stands, so its message holds no internals."""

    code: ClassVar[str | None] = None
    """Its row of the contract's table (slhf/errors.py), from which status and type come."""
    status: ClassVar[int] = 500
    type: ClassVar[str] = "server_error"
    stop_reason: ClassVar[StopReason] = "error"
    """What `refinement.stop_reason` says when a finished text is returned in spite of this."""
    retry_after: int | None = None
    """Seconds that the Retry-After header asks for; None: the answer has no such header."""
    headers: ClassVar[Mapping[str, str]] = {}
    """Further headers of the answer."""

    def __init_subclass__(cls) -> None:
        if cls.code is not None:
            cls.status, cls.type = ERRORS[cls.code].status, ERRORS[cls.code].type

    def __init__(self, message: str, *, param: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.param = param

    @property
    def name(self) -> str:
        """What metrics and traces call it."""
        return self.code or self.type


class BadRequest(RequestError):
    status = 400
    type = "invalid_request_error"


class ContextLengthExceeded(BadRequest):
    code = "context_length_exceeded"
    stop_reason = "context_length"

    def __init__(self, prompt_tokens: int, max_model_len: int) -> None:
        super().__init__(
            f"This model's maximum context length is {max_model_len} tokens, but the conversation and the draft have "
            f"{prompt_tokens} tokens, which leaves no room for an answer. Shorten the messages or the draft.",
            param="messages",
        )


class UpstreamContextExceeded(ContextLengthExceeded):
    def __init__(self) -> None:
        message = "The conversation is longer than the context of the upstream's model. Shorten the messages."
        BadRequest.__init__(self, message, param="messages")


class UnknownToken(BadRequest):
    def __init__(self, ids: Sequence[int], spelled: Sequence[str]) -> None:
        place = [*spelled].index("")
        super().__init__(f"{ids[place]} is the id of no token", param=f"tokens.{place}")


class InvalidAPIKey(RequestError):
    code = "invalid_api_key"
    headers = {"WWW-Authenticate": "Bearer"}


class ModelNotFound(RequestError):
    code = "model_not_found"


class RefinementNotFound(RequestError):
    code = "refinement_not_found"


class VerdictsUnavailable(RequestError):
    code = "verdicts_unavailable"
    retry_after = 5


class RequestTimeout(RequestError):
    code = "request_timeout"


class BodyTooLarge(RequestError):
    code = "request_too_large"


class EncodedBody(RequestError):
    code = "unsupported_content_encoding"
    headers = {"Accept-Encoding": "identity"}


class HeadersTooLarge(RequestError):
    code = "request_header_fields_too_large"


class RateLimited(RequestError):
    code = "rate_limit_exceeded"

    def __init__(self, message: str, *, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class QueueFull(RequestError):
    code = "rate_limit_exceeded"
    retry_after = 1


class InternalError(RequestError):
    code = "internal_error"


class EngineFailed(RequestError):
    code = "engine_error"


class EngineUnavailable(RequestError):
    code = "engine_unavailable"
    retry_after = 5


class UpstreamFailed(RequestError):
    code = "upstream_error"


class UpstreamUnavailable(RequestError):
    code = "upstream_unavailable"
    retry_after = 5

    def __init__(self, message: str, *, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = self.retry_after if retry_after is None else retry_after


class Stopped(RequestError):
    """A limit of the request ended it, which is no error while there is a finished text to return."""


class DeadlineExceeded(Stopped):
    code = "deadline_exceeded"
    stop_reason = "deadline"


class TokenBudgetExceeded(Stopped):
    code = "token_budget_exceeded"
    stop_reason = "token_budget"


class InvalidStructure(Stopped):
    stop_reason = "invalid_structure"
