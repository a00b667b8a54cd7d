"""What wraps every request, as plain ASGI, because Starlette's BaseHTTPMiddleware would buffer streams."""

import logging
import re
import time
import uuid
from typing import Any
from urllib.parse import quote

from opentelemetry import trace
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from slhf.wire import ErrorBody
from slhf_server.api.error_handlers import bug, error_response, error_type
from slhf_server.api.error_shapes import error_bytes, is_anthropics
from slhf_server.api.route import OPEN, is_open
from slhf_server.errors import EncodedBody, HeadersTooLarge
from slhf_server.refinement.request_log import RequestLog

MOST_HEADERS = 100
MOST_HEADER_BYTES = 32 << 10
_MOST_OF_A_TEXT = 200

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_access = logging.getLogger("slhf_server.access")


class Envelope:
    """Gives every answer an id, our errors' shape, no body after HEAD, and a line in the log.

    Handlers find the id (a well-formed `X-Request-Id`, or a new one) in `request.state.request_id`, the API key in
    `request.state.key`, and add to the line in `request.state.log`. The open routes have no line, because probes would
    fill the log.
    """

    def __init__(self, app: ASGIApp, log_content: bool, open_routes: frozenset[str] = OPEN) -> None:
        self._app = app
        self._log_content = log_content
        self._open_routes = open_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await _refuse_websocket(scope, send)
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        response = _Response(scope, send, request_id)
        state = {**scope.get("state", {}), "request_id": request_id, "log": RequestLog(), "response": response}
        state["key"] = None
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        try:
            await self._app({**scope, "method": method, "state": state}, receive, response.send)
        except Exception:
            response.failed = True
            raise
        finally:
            if not is_open(scope, self._open_routes):
                self._write(scope, state, response, (time.perf_counter() - started) * 1e3)

    def _write(self, scope: Scope, state: dict[str, Any], response: "_Response", duration_ms: float) -> None:
        extra: dict[str, Any] = {
            "request_id": state["request_id"],
            "method": scope["method"],
            "path": quote(scope["path"]),
            "status": response.final_status,
            "duration_ms": round(duration_ms, 1),
            "bytes": response.bytes,
            "stream": response.stream,
        }
        if "model" in state:
            extra["model"] = state["model"]
        if (trace_id := _trace_id(Headers(scope=scope))) is not None:
            extra["trace_id"] = trace_id
        extra |= state["log"]
        if not self._log_content:
            extra.pop("content", None)
        _access.info("%s %s %d", extra["method"], extra["path"], extra["status"], extra=extra)


class _Response:
    """One response on its way out, and what the log tells of it."""

    def __init__(self, scope: Scope, send: Send, request_id: str) -> None:
        self.bytes = 0
        self.stream = False
        self.started = False
        self.failed = False
        self._scope = scope
        self._send = send
        self._request_id = request_id
        self._without_body = scope["method"] == "HEAD"
        self._foreign: Message | None = None
        self._status = 499
        self._complete = False

    @property
    def final_status(self) -> int:
        """The status for the log: 500 after a bug; 499, as in nginx, where the client went before the end."""
        if self.failed:
            return 500
        return self._status if self._complete else 499

    async def send(self, message: Message) -> None:
        """Send a message of the application. Each piece of a stream passes here."""
        if message["type"] == "http.response.body":
            await self._send_body(message)
        elif message["type"] == "http.response.start":
            await self._send_start(message)
        else:
            await self._send(message)

    async def _send_start(self, message: Message) -> None:
        headers = MutableHeaders(scope=message)
        headers["X-Request-Id"] = self._request_id
        if is_anthropics(self._scope):
            headers["Request-Id"] = self._request_id  # the name by which Anthropic's SDKs read it
        kind = headers.get("content-type", "")
        self.started = True
        self.stream = kind.startswith("text/event-stream")
        if message["status"] >= 400 and kind != "application/json":
            self._foreign = message  # Starlette's error is plain text: it is sent in our shape once the text is here
            return
        await self._send(message)
        self._status = message["status"]

    async def _send_body(self, message: Message) -> None:
        if self._foreign is not None:
            return await self._send_translated(self._foreign, message.get("body", b""))
        if self._complete:
            return  # the rest of a translated error
        if self._without_body:
            message = {**message, "body": b""}
        await self._send(message)
        self.bytes += len(message.get("body", b""))
        self._complete = not message.get("more_body", False)

    async def _send_translated(self, start: Message, text: bytes) -> None:
        self._foreign = None
        said = text.decode("utf-8", "replace")[:_MOST_OF_A_TEXT] or "the request cannot be answered"
        told = ErrorBody(message=said, type=error_type(start["status"]))
        body = error_bytes(self._scope, start["status"], told, self._request_id)
        headers = MutableHeaders(raw=list(start["headers"]))
        headers["Content-Type"] = "application/json"
        headers["Content-Length"] = str(len(body))
        await self._send_start({**start, "headers": headers.raw})
        await self._send_body({"type": "http.response.body", "body": body})


async def _refuse_websocket(scope: Scope, send: Send) -> None:
    """Refuse a WebSocket, which no route is: over HTTP where the ASGI server can do that, else it answers 403."""
    if "websocket.http.response" not in scope.get("extensions", {}):
        return await send({"type": "websocket.close", "code": 1008, "reason": "no WebSocket here"})
    told = ErrorBody(message="no WebSocket here: use HTTP", type="invalid_request_error")
    body = error_bytes(scope, 400, told)
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "websocket.http.response.start", "status": 400, "headers": headers})
    await send({"type": "websocket.http.response.body", "body": body})


class LastResort:
    """Answers where a bug left no answer. It lies within CORS, so that a page can read the id that it is told.

    The exception is raised again: the server below logs its traceback, and cuts a stream that had begun.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._app(scope, receive, send)
        except Exception:
            if scope["type"] == "http" and not scope["state"]["response"].started:
                await bug(Request(scope))(scope, receive, send)
            raise


def _trace_id(headers: Headers) -> str | None:
    """The caller's trace, if its `traceparent` is well-formed."""
    if "traceparent" not in headers:
        return None
    context = TraceContextTextMapPropagator().extract(dict(headers))
    span = trace.get_current_span(context).get_span_context()
    return trace.format_trace_id(span.trace_id) if span.is_valid else None


class HeaderLimit:
    """Refuses more headers than any client of ours has a reason to send."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope.get("headers", ())
        if len(headers) <= MOST_HEADERS and sum(len(k) + len(v) for k, v in headers) <= MOST_HEADER_BYTES:
            return await self._app(scope, receive, send)
        refused = HeadersTooLarge(f"more than {MOST_HEADERS} headers, or than {MOST_HEADER_BYTES} bytes of them")
        await error_response(Request(scope), refused)(scope, receive, send)


class BodyLimit:
    """Refuses a body before it is parsed if it is encoded, or over the limit by its length or as it arrives."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        headers = Headers(scope=scope)
        if encodings := _encodings(headers):
            refused = EncodedBody(f"Content-Encoding {', '.join(encodings)!r}: send the body as it is")
            return await error_response(Request(scope), refused)(scope, receive, send)
        declared = headers.get("content-length", "")
        size = int(declared) if declared.isdecimal() else 0

        async def receive_limited() -> Message:
            nonlocal size
            if size > self._limit:
                raise self._too_large()
            message = await receive()
            if not declared:
                size += len(message.get("body", b""))
                if size > self._limit:
                    raise self._too_large()
            return message

        await self._app(scope, receive_limited, send)

    def _too_large(self) -> HTTPException:
        return HTTPException(413, f"the body is over this server's limit of {self._limit} bytes")


def _encodings(headers: Headers) -> list[str]:
    """The body's encodings. None is decoded here, because the decoded length would be known too late."""
    named = ",".join(headers.getlist("content-encoding")).split(",")
    return [name.strip() for name in named if name.strip().lower() not in ("", "identity")]
