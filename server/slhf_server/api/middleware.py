"""What wraps every request, as plain ASGI (Starlette's BaseHTTPMiddleware would buffer streams). See app.py."""

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

from slhf_server.api.failures import answer
from slhf_server.errors import HeadersTooLarge
from slhf_server.logs import RequestLog

MOST_HEADERS = 100
MOST_HEADER_BYTES = 32 << 10

_SAFE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_access = logging.getLogger("slhf_server.access")


class RequestId:
    """Echoes a well-formed `X-Request-Id`, or makes one; handlers find it in `request.state.request_id`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        given = Headers(scope=scope).get("x-request-id", "")
        request_id = given if _SAFE_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)["X-Request-Id"] = request_id
            await send(message)

        await self._app(scope, receive, send_with_id)


class AccessLog:
    """One line for each finished request to `/v1/*`; handlers add to it in `request.state.log`."""

    def __init__(self, app: ASGIApp, log_content: bool) -> None:
        self._app = app
        self._log_content = log_content

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        scope["state"]["log"] = RequestLog()
        if not scope["path"].startswith("/v1/"):
            return await self._app(scope, receive, send)
        started = time.perf_counter()
        response = _Response()
        try:
            await self._app(scope, receive, response.watched(send))
        except Exception:
            response.failed = True
            raise
        finally:
            self._write(scope, response, (time.perf_counter() - started) * 1e3)

    def _write(self, scope: Scope, response: "_Response", duration_ms: float) -> None:
        state = scope["state"]
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
    """What is seen of a response while it is sent."""

    def __init__(self) -> None:
        self.bytes = 0
        self.stream = False
        self.failed = False
        self._status = 499
        self._complete = False

    @property
    def final_status(self) -> int:
        """500 after a bug; 499, as nginx has it, where the client went before the end."""
        if self.failed:
            return 500
        return self._status if self._complete else 499

    def watched(self, send: Send) -> Send:
        async def watch(message: Message) -> None:
            await send(message)
            if message["type"] == "http.response.start":
                self._status = message["status"]
                self.stream = Headers(raw=message["headers"]).get("content-type", "").startswith("text/event-stream")
            elif message["type"] == "http.response.body":
                self.bytes += len(message.get("body", b""))
                self._complete = not message.get("more_body", False)

        return watch


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
        await answer(Request(scope), refused)(scope, receive, send)


class BodyLimit:
    """Refuses a body over the limit before it is parsed, by its declared length or while it arrives."""

    def __init__(self, app: ASGIApp, limit: int) -> None:
        self._app = app
        self._limit = limit

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        declared = Headers(scope=scope).get("content-length", "")
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
