"""One exchange with the server, without I/O: what is sent, what is tried again, what an answer means.

`Client` and `AsyncClient` drive the same `exchange` generator and the same `EventReader`; they add nothing but sending,
sleeping and reading. httpx2's exceptions become ours here and nowhere else.
"""

import itertools
import random
import re
import time
from collections.abc import Generator, Mapping, Sequence
from email.utils import parsedate_to_datetime
from typing import Any, Literal, TypedDict, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from slhf.errors import (
    APIError,
    AuthenticationError,
    BadRequest,
    ContextLengthExceeded,
    DeadlineExceeded,
    ModelNotFound,
    PayloadTooLarge,
    RateLimited,
    SLHFError,
    TransportError,
    TransportTimeout,
    Unavailable,
)
from slhf.history import Message
from slhf.sse import Decoder, ServerSentEvent
from slhf.wire import (
    ErrorBody,
    ErrorEvent,
    ErrorResponse,
    Event,
    RefinementCompleted,
    RefineRequest,
    RoundCompleted,
    RoundDelta,
    RoundStarted,
)

Conversation = str | Sequence[Message | BaseModel | Mapping[str, Any]]
"""A prompt (one user turn), or the conversation's messages."""

Reply = httpx2.Response | httpx2.RequestError
"""What came of one attempt."""

Answer = TypeVar("Answer", bound=BaseModel)

FIRST_BACKOFF = 0.5
LONGEST_BACKOFF = 8.0
LONGEST_RETRY_AFTER = 60.0
"""Seconds. A server that asks for more is asked again after this long."""

_ERRORS: list[tuple[int, str | None, type[APIError]]] = [
    (400, "context_length_exceeded", ContextLengthExceeded),
    (400, None, BadRequest),
    (401, None, AuthenticationError),
    (404, "model_not_found", ModelNotFound),  # any other 404 is a wrong address, not a missing model
    (413, None, PayloadTooLarge),
    (429, None, RateLimited),
    (503, None, Unavailable),
    (504, None, DeadlineExceeded),
]
"""Status, code (None: any) and the exception it is; the first row that fits counts, APIError where none does."""

_STATUS_IN_STREAM = {
    "context_length_exceeded": 400,
    "invalid_api_key": 401,
    "model_not_found": 404,
    "request_too_large": 413,
    "rate_limit_exceeded": 429,
    "engine_unavailable": 503,
    "upstream_unavailable": 503,
    "deadline_exceeded": 504,
}
"""An error event comes after the status line said 200; its code tells which status it would have been."""

_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
_KNOWN_EVENTS = {
    kind.model_fields["type"].default
    for kind in (RoundStarted, RoundDelta, RoundCompleted, RefinementCompleted, ErrorEvent)
}


class Options(TypedDict, total=False):
    """Keyword arguments of `refine` and `stream`: `wire.RefineRequest` documents them. None is as if not given."""

    model: str | None
    draft: str | None
    rounds: int | None
    on_error: Literal["return_draft", "fail"] | None
    timeout_ms: int | None
    max_total_tokens: int | None
    stop_when_unchanged: bool | None
    return_rounds: bool | None
    show_rounds: bool | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    instruction: str | None


def refine_request(conversation: Conversation, options: Options, *, stream: bool = False) -> RefineRequest:
    """Raises pydantic's ValidationError (a ValueError) naming a key or value that the contract does not know."""
    given = {key: value for key, value in options.items() if value is not None}
    turns = {"prompt": conversation} if isinstance(conversation, str) else {"messages": [*map(_json, conversation)]}
    return RefineRequest.model_validate({**given, **turns, "stream": stream})


def _json(message: Message | BaseModel | Mapping[str, Any]) -> Any:
    """A message as the contract has it: other libraries' answers, such as the openai SDK's, are models of their own."""
    if isinstance(message, BaseModel) and not isinstance(message, Message):
        return message.model_dump(mode="json", exclude_unset=True, warnings=False)
    return message


def exchange(max_retries: int) -> Generator[float, Reply, httpx2.Response]:
    """Yields the seconds to wait before each attempt, is sent what came of it, and returns the successful response.

    Tried again is only what the server has not worked on: a failed connection, 429 and 503.
    Raises TransportError or APIError when no attempt is left.
    """
    wait = 0.0
    for attempt in itertools.count():
        reply = yield wait
        if isinstance(reply, httpx2.Response) and reply.is_success:
            return reply
        error = api_error(reply) if isinstance(reply, httpx2.Response) else transport_error(reply)
        if attempt >= max_retries or not _safe_to_repeat(reply):
            raise error from (reply if isinstance(reply, httpx2.RequestError) else None)
        wait = _pause(error, attempt)
    raise AssertionError("unreachable")


def _safe_to_repeat(reply: Reply) -> bool:
    if isinstance(reply, httpx2.Response):
        return reply.status_code in (429, 503)
    return isinstance(reply, httpx2.ConnectError | httpx2.ConnectTimeout)


def _pause(error: SLHFError, attempt: int) -> float:
    """What the server asked for, or exponential backoff with full jitter, so that clients do not come back in step."""
    if isinstance(error, APIError) and error.retry_after is not None:
        return min(error.retry_after, LONGEST_RETRY_AFTER)
    return random.uniform(0, min(FIRST_BACKOFF * 2**attempt, LONGEST_BACKOFF))


def transport_error(exc: httpx2.RequestError) -> TransportError:
    reason = str(exc) or type(exc).__name__
    if isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol):
        problem = f"cannot connect to {exc.request.url}: {reason}"
    else:
        problem = f"no complete answer from {exc.request.url}: {reason}"
    return TransportTimeout(problem) if isinstance(exc, httpx2.TimeoutException) else TransportError(problem)


def api_error(response: httpx2.Response) -> APIError:
    """`response` has been read. A body that is not OpenAI-shaped (a proxy's page) is quoted, cut short."""
    try:
        body = ErrorResponse.model_validate_json(response.content).error
    except ValidationError:
        said = " ".join(response.text.split())[:200]
        message = f"HTTP {response.status_code} {response.reason_phrase} from {response.request.url}"
        body = ErrorBody(message=f"{message}: {said}" if said else message, type="http_error")
    return _error(response.status_code, body, response)


def _error(status: int, body: ErrorBody, response: httpx2.Response) -> APIError:
    kinds = (kind for row_status, code, kind in _ERRORS if status == row_status and code in (None, body.code))
    return next(kinds, APIError)(
        status, body, request_id=response.headers.get("X-Request-Id"), retry_after=_retry_after(response)
    )


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds; the header holds seconds or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:  # neither: the same as no header
        return None


def parsed(answer: type[Answer], response: httpx2.Response) -> Answer:
    try:
        return answer.model_validate_json(response.content)
    except ValidationError as exc:
        raise TransportError(f"the answer of {response.request.url} is not a {answer.__name__}: {_first(exc)}") from exc


class EventReader:
    """The bytes of one streamed refinement in, typed events out."""

    def __init__(self, response: httpx2.Response) -> None:
        self.complete = False
        """True once `refinement.completed` has come: nothing of interest follows."""
        self._response = response
        self._decoder = Decoder()

    def feed(self, chunk: bytes) -> Generator[Event]:
        """Raises the mapped APIError for an `error` event. Events that only a newer server knows are passed over."""
        for sse in self._decoder.feed(chunk):
            if sse.event in _KNOWN_EVENTS:
                yield self._event(sse)

    def _event(self, sse: ServerSentEvent) -> Event:
        try:
            event = _EVENTS.validate_json(sse.data)
        except ValidationError as exc:
            raise TransportError(f"not a {sse.event} event of {self._response.request.url}: {_first(exc)}") from exc
        if isinstance(event, ErrorEvent):
            other = 400 if event.error.type == "invalid_request_error" else 500
            raise _error(_STATUS_IN_STREAM.get(event.error.code or "", other), event.error, self._response)
        self.complete = isinstance(event, RefinementCompleted)
        return event

    def cut_short(self) -> TransportError:
        """What is wrong when the bytes end here."""
        return TransportError(f"the stream of {self._response.request.url} ended before the refinement was complete")


def _first(exc: ValidationError) -> str:
    problem = exc.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")
