"""One exchange with the server, without I/O: what is sent, what is tried again, what an answer means.

`Client` and `AsyncClient` drive the same `exchange` generator and the same `EventReader`; they add nothing but sending,
sleeping and reading. httpx2's exceptions become ours here and nowhere else.
"""

import itertools
import math
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
    InputError,
    ModelNotFound,
    PayloadTooLarge,
    RateLimited,
    SLHFError,
    TransportError,
    TransportTimeout,
    Unavailable,
)
from slhf.history import Message
from slhf.json_text import read_json
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

_BY_CODE: dict[str, tuple[int, type[APIError]]] = {
    "context_length_exceeded": (400, ContextLengthExceeded),
    "token_budget_exceeded": (400, BadRequest),
    "invalid_api_key": (401, AuthenticationError),
    "model_not_found": (404, ModelNotFound),  # any other 404 is a wrong address, not a missing model
    "request_timeout": (408, APIError),
    "request_too_large": (413, PayloadTooLarge),
    "unsupported_content_encoding": (415, APIError),
    "rate_limit_exceeded": (429, RateLimited),
    "request_header_fields_too_large": (431, APIError),
    "engine_error": (500, APIError),
    "internal_error": (500, APIError),
    "upstream_error": (502, APIError),
    "engine_unavailable": (503, Unavailable),
    "upstream_unavailable": (503, Unavailable),
    "deadline_exceeded": (504, DeadlineExceeded),
}
"""The contract's error table: code, status and exception. An error event comes after the status line said 200, so its
code is what tells which status it would have been."""

_BY_STATUS: dict[int, type[APIError]] = {
    400: BadRequest,
    401: AuthenticationError,
    413: PayloadTooLarge,
    429: RateLimited,
    503: Unavailable,
    504: DeadlineExceeded,
}
"""For errors with another code or none, such as a proxy's; APIError where the status is not here."""

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


def refine_body(request: RefineRequest) -> str:
    """The JSON of its given fields. Raises InputError naming those that no JSON can hold.

    Half of a surrogate pair is what Python makes of bytes that are not UTF-8, in arguments and names of files.
    """
    try:
        return request.model_dump_json(exclude_unset=True)
    except ValueError as exc:
        names = ", ".join(name for name in sorted(request.model_fields_set) if not _is_json(request, name))
        raise InputError(f"{names}: it cannot be sent as JSON (bytes that are not UTF-8?)") from exc


def _is_json(request: RefineRequest, name: str) -> bool:
    try:
        request.model_dump_json(include={name})
    except ValueError:
        return False
    return True


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
    """What the server asked for, and exponential backoff with full jitter, so that clients do not come back in step."""
    asked = (isinstance(error, APIError) and error.retry_after) or 0.0
    return min(asked, LONGEST_RETRY_AFTER) + random.uniform(0, min(FIRST_BACKOFF * 2**attempt, LONGEST_BACKOFF))


def transport_error(exc: httpx2.RequestError) -> TransportError:
    reason = str(exc) or type(exc).__name__
    if isinstance(exc, httpx2.ProtocolError):  # its text quotes the header that it does not like
        reason = "the connection ended early, or what came is not HTTP/1.1"
    if isinstance(exc, httpx2.ConnectError | httpx2.ConnectTimeout | httpx2.UnsupportedProtocol | httpx2.ProxyError):
        problem = f"cannot connect to {exc.request.url}: {reason}"
    else:
        problem = f"no complete answer from {exc.request.url}: {reason}"
    return TransportTimeout(problem) if isinstance(exc, httpx2.TimeoutException) else TransportError(problem)


def api_error(response: httpx2.Response) -> APIError:
    """`response` has been read. A body that is not OpenAI-shaped (a proxy's page) is quoted, cut short."""
    try:
        body = ErrorResponse.model_validate(read_json(response.content)).error
    except ValueError:
        said = " ".join(response.text.split())[:200]
        if "Location" in response.headers:
            said = f"it points to {response.headers['Location'].partition('?')[0]}"
        message = f"HTTP {response.status_code} {response.reason_phrase} from {response.request.url}"
        body = ErrorBody(message=f"{message}: {said}" if said else message, type="http_error")
    return _error(response.status_code, body, response)


def _error(status: int, body: ErrorBody, response: httpx2.Response) -> APIError:
    by_code = _BY_CODE.get(body.code or "", (None, APIError))
    kind = by_code[1] if status == by_code[0] else _BY_STATUS.get(status, APIError)
    return kind(
        status,
        body.model_copy(update={"message": _without_key(body.message, response.request)}),
        request_id=response.headers.get("X-Request-Id"),
        retry_after=_retry_after(response),
    )


def _without_key(text: str, request: httpx2.Request) -> str:
    """A server that quotes the request in its error must not bring the key into a log."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return text.replace(key, "***") if len(key) > 3 else text  # shorter ones are words, and no secret


def _retry_after(response: httpx2.Response) -> float | None:
    """Seconds; the header holds seconds or a date (RFC 9110, 10.2.3)."""
    value = response.headers.get("Retry-After", "").strip()
    try:
        if re.fullmatch(r"[0-9]+(\.[0-9]+)?", value):
            return float(value) if math.isfinite(float(value)) else None
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):  # neither, or a date that no clock shows: the same as no header
        return None


def parsed(answer: type[Answer], response: httpx2.Response) -> Answer:
    try:
        return answer.model_validate(read_json(response.content))
    except ValueError as exc:
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
            event = _EVENTS.validate_python(read_json(sse.data))
        except ValueError as exc:
            raise TransportError(f"not a {sse.event} event of {self._response.request.url}: {_first(exc)}") from exc
        if isinstance(event, ErrorEvent):
            other = 400 if event.error.type == "invalid_request_error" else 500
            status, _ = _BY_CODE.get(event.error.code or "", (other, APIError))
            raise _error(status, event.error, self._response)
        self.complete = isinstance(event, RefinementCompleted)
        return event

    def cut_short(self) -> TransportError:
        """What is wrong when the bytes end here."""
        return TransportError(f"the stream of {self._response.request.url} ended before the refinement was complete")


def _first(exc: ValueError) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    problem = exc.errors()[0]
    return f"{'.'.join(map(str, problem['loc']))}: {problem['msg']}".removeprefix(": ")
