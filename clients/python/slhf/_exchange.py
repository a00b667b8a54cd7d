"""One exchange with the server, without I/O: what is sent, what is tried again, what an answer means.

`Client` and `AsyncClient` drive the same `exchange` generator and the same `EventReader`; they add nothing but sending,
sleeping and reading. httpx2's exceptions become ours here and nowhere else.
"""

import itertools
import random
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar

import httpx2
from pydantic import BaseModel, TypeAdapter, ValidationError

from slhf.errors import (
    APIError,
    InputError,
    SLHFError,
    TransportError,
    TransportTimeout,
    exception_for,
    status_in_stream,
    where_and_what,
)
from slhf.history import Message
from slhf.json_text import read_json
from slhf.retry import backoff, retry_after
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
    RoundJudged,
    RoundStarted,
    Select,
    StopWhen,
    given,
)

Conversation = str | Sequence[Message | BaseModel | Mapping[str, Any]]
"""A prompt (one user turn), or the conversation's messages."""

Reply = httpx2.Response | httpx2.RequestError
"""What one attempt came to: a response, or the error that httpx2 raised."""

Answer = TypeVar("Answer", bound=BaseModel)

LONGEST_RETRY_AFTER = 60.0
"""Seconds. A server that asks for more is asked again after this long."""

_EVENTS: TypeAdapter[Event] = TypeAdapter(Event)
_KNOWN_EVENTS = {
    kind.model_fields["type"].default
    for kind in (RoundStarted, RoundDelta, RoundCompleted, RoundJudged, RefinementCompleted, ErrorEvent)
}


class Options(TypedDict, total=False):
    """Keyword arguments of `refine` and `stream`, which `wire.RefineRequest` documents. None: it is not given."""

    model: str | None
    draft: str | None
    rounds: int | None
    on_error: Literal["return_draft", "fail"] | None
    timeout_ms: int | None
    max_total_tokens: int | None
    select: Select | None
    stop_when: Sequence[StopWhen] | None
    stop_when_unchanged: bool | None
    return_rounds: bool | None
    show_rounds: bool | None
    temperature: float | None
    top_p: float | None
    max_tokens: int | None
    instruction: str | None
    profile: str | None
    seed: int | None
    priority: int | None


def refine_request(conversation: Conversation, options: Options, *, stream: bool = False) -> RefineRequest:
    """Build a request. Raises ValidationError (a ValueError) naming a key or value that the contract does not know."""
    turns = {"prompt": conversation} if isinstance(conversation, str) else {"messages": [*map(_json, conversation)]}
    return RefineRequest.model_validate({**given(options), **turns, "stream": stream})


def refine_body(request: RefineRequest) -> str:
    """The JSON of the request's given fields. Raises InputError naming those that JSON cannot hold.

    Such a field holds half of a surrogate pair, which Python makes of bytes that are not UTF-8 in arguments and names
    of files.
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
    """A message as the contract has it; answers of other libraries, such as the openai SDK, are models of theirs."""
    if isinstance(message, BaseModel) and not isinstance(message, Message):
        return message.model_dump(mode="json", exclude_unset=True, warnings=False)
    return message


def exchange(max_retries: int) -> Generator[float, Reply, httpx2.Response]:
    """Yields the seconds to wait before each attempt, is sent what came of it, and returns the successful response.

    Only what the server has not worked on is tried again: a failed connection, 429 and 503. Raises TransportError or
    APIError when no attempt is left.
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
    """Seconds: what the server asked for, and exponential backoff with full jitter, lest clients come back in step."""
    asked = (isinstance(error, APIError) and error.retry_after) or 0.0
    return min(asked, LONGEST_RETRY_AFTER) + backoff(attempt, random.random())


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
    """The exception for a response whose body has been read.

    A body that is not OpenAI-shaped, such as a proxy's page, is quoted and cut short.
    """
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
    return exception_for(status, body.code)(
        status,
        body.model_copy(update={"message": _without_key(body.message, response.request)}),
        request_id=response.headers.get("X-Request-Id"),
        retry_after=retry_after(response.headers.get("Retry-After", "")),
    )


def _without_key(text: str, request: httpx2.Request) -> str:
    """A server that quotes the request in its error must not bring the key into a log."""
    key = request.headers.get("Authorization", "").removeprefix("Bearer ")
    return text.replace(key, "***") if len(key) > 3 else text  # a shorter key is a word, and no secret


def parsed(answer: type[Answer], response: httpx2.Response) -> Answer:
    """The response's JSON as a model. Raises TransportError where it is no such answer."""
    try:
        return answer.model_validate(read_json(response.content))
    except ValueError as exc:
        raise TransportError(f"the answer of {response.request.url} is not a {answer.__name__}: {_first(exc)}") from exc


class EventReader:
    """Turns the bytes of one streamed refinement into typed events."""

    def __init__(self, response: httpx2.Response) -> None:
        self.complete = False
        """True once `refinement.completed` has come: nothing of interest follows."""
        self._response = response
        self._decoder = Decoder()

    def feed(self, chunk: bytes) -> Generator[Event]:
        """Yield the events that this chunk completes; events that only a newer server knows are left out.

        Raises the APIError that belongs to an `error` event, and TransportError for an event that cannot be read.
        """
        for sse in self._decoder.feed(chunk):
            if sse.event in _KNOWN_EVENTS:
                yield self._event(sse)

    def _event(self, sse: ServerSentEvent) -> Event:
        try:
            event = _EVENTS.validate_python(read_json(sse.data))
        except ValueError as exc:
            raise TransportError(f"not a {sse.event} event of {self._response.request.url}: {_first(exc)}") from exc
        if isinstance(event, ErrorEvent):
            raise _error(status_in_stream(event.error), event.error, self._response)
        self.complete = isinstance(event, RefinementCompleted)
        return event

    def cut_short(self) -> TransportError:
        """The error to raise when the bytes end here."""
        return TransportError(f"the stream of {self._response.request.url} ended before the refinement was complete")


def _first(exc: ValueError) -> str:
    if not isinstance(exc, ValidationError):
        return str(exc)
    return where_and_what(dict(exc.errors()[0]))
