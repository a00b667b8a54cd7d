"""The connection, before there is a request: uvicorn's httptools protocol, and bounds on what a client makes it keep.

* What cannot be parsed is refused in our error's shape, too.
* Bytes that are no body are counted: those of the head, of chunk sizes, and of chunk extensions and trailers, which are
  dropped. Only as many fields of the head are kept as `HeaderLimit` needs to refuse them, with the request's id.
* One read is at most `_READ_BYTES`. Nothing more is read while the application has not taken a body's last piece, or
  while a request waits behind another (pipelining).
* A head must be whole in `read_timeout_s`; a body must bring `_LEAST_BYTES_PER_S`. A slower connection is cut.
* llhttp stops at an Upgrade field, as RFC 9110 lets it, and clients send one that no server needs to follow (h2c). The
  head is then fed again without it. That holds for WebSockets too: there are none.
* HTTP/1.0 gets no chunks and no `100 Continue`.
"""

import asyncio
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from slhf_server.api.error_handlers import body_of
from slhf_server.api.error_shapes import error_bytes
from slhf_server.api.middleware import MOST_HEADER_BYTES, MOST_HEADERS
from slhf_server.errors import BadRequest, HeadersTooLarge, RequestError, RequestTimeout

_MOST_HEAD_BYTES = MOST_HEADER_BYTES + (10 << 10)  # the request line and the space between fields count, too
_MOST_FIELDS = 4 * MOST_HEADERS  # that are counted; only MOST_HEADERS + 1 are kept
_SMALL_HEAD_BYTES = 4 << 10
_MOST_FRAMING_BYTES = 8 << 10
_FRAMING_PER_BYTE = 16  # for each byte of the body: a chunk of one byte has five bytes around it
_READ_BYTES = 16 << 10
_LEAST_SLICE = 60  # bytes that are parsed at once, lest blank lines be parsed four bytes at a time
_LEAST_BYTES_PER_S = 500
_LINGER_S = 2.0
_LINGER_BYTES = 1 << 20


@dataclass
class _Shared:
    """What the connections of one server have in common."""

    read_timeout_s: float
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(_READ_BYTES)))
    """The loop reads into this buffer, and what was read is handled before the next read."""
    large_heads_bytes: int = 4 << 20
    """What is left for all unfinished heads together, not counting the first `_SMALL_HEAD_BYTES` of each."""


def protocol(read_timeout_s: float) -> "type[HttpProtocol]":
    """The class of one server's connections, for uvicorn's `http`."""

    class Connection(HttpProtocol):
        shared = _Shared(read_timeout_s)

    return Connection


class HttpProtocol(HttpToolsProtocol, asyncio.BufferedProtocol):
    """One connection. `protocol` makes the class to use."""

    shared: ClassVar[_Shared]
    _head_bytes: int | None = 0
    """Bytes of the head that is arriving; 0 between messages, None while a body arrives."""
    _body_bytes = 0
    _framing_bytes = 0
    """Bytes since the head that were no body."""
    _large_bytes = 0
    """What this head has taken of `large_heads_bytes`."""
    _fields = 0
    """Fields of head and trailers so far."""
    _unparsed = b""
    _plain_head: bytes | None = None
    """The head without its Upgrade field, to be parsed again."""
    _deaf = False
    """Whether all further bytes are dropped, because the connection is about to end."""
    _dropped_bytes = 0
    _deadline: asyncio.TimerHandle | None = None
    """The timer that runs while, and only while, the client owes the rest of a message."""
    _body_bytes_then = 0
    """Bytes of the body when the deadline was set."""

    # The transport calls these.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn does
        super().connection_made(transport)
        self._set_deadline()

    def get_buffer(self, sizehint: int) -> memoryview:
        return self.shared.buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(bytes(self.shared.buffer[:nbytes]))

    def data_received(self, data: bytes) -> None:
        self._unset_keepalive_if_required()
        if self._deaf:
            self._dropped_bytes += len(data)
            if self._dropped_bytes > _LINGER_BYTES:
                self.transport.close()
            return
        self._unparsed += data
        self._parse()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self._unset_keepalive_if_required()  # uvicorn does so only where there is no `exc`
        self._drop_deadline()
        self._return_room()
        self._deaf, self._unparsed = True, b""

    # These parse in slices, so that at most a few requests are taken from one read.

    def _parse(self) -> None:
        while self._unparsed and not self.pipeline and not self._deaf:
            end = self._unparsed.find(b"\r\n\r\n", _LEAST_SLICE) + 4
            piece = self._unparsed[:end] if end > 3 else self._unparsed
            self._unparsed = self._unparsed[len(piece) :]
            self._feed(piece)
        if self._deaf:
            return
        if self._unparsed or (self._head_bytes is None and self.cycle.body):
            self.flow.pause_reading()  # until the application asks for more, or has answered
        if self._head_bytes == 0:
            self._drop_deadline()
        elif self._deadline is None:
            self._set_deadline()

    def _feed(self, piece: bytes) -> None:
        if self._head_bytes is None:
            self._framing_bytes += len(piece)  # `on_body` takes off what is body
        else:
            self._head_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as exc:
            return self._feed_again(piece[exc.args[0] :])
        except httptools.HttpParserError:
            return self._refuse(
                HeadersTooLarge(f"more than {MOST_HEADERS} headers")
                if self._fields > _MOST_FIELDS
                else BadRequest("Invalid HTTP request received: it is no well-formed HTTP/1.1")
            )
        self._keep_within_bounds()

    def _feed_again(self, rest: bytes) -> None:
        if self._plain_head is None:
            return self._refuse(BadRequest("CONNECT, or an Upgrade among too many fields: there is nothing else here"))
        self.parser = httptools.HttpRequestParser(self)  # the old parser takes nothing more after `Connection: close`
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
        self._unparsed = self._plain_head + rest + self._unparsed
        self._plain_head = None
        self._head_bytes = 0

    def _keep_within_bounds(self) -> None:
        head = self._head_bytes or 0
        large = max(0, head - _SMALL_HEAD_BYTES) - self._large_bytes
        if head > _MOST_HEAD_BYTES:
            self._refuse(HeadersTooLarge(f"the request's head is over {_MOST_HEAD_BYTES} bytes"))
        elif self._framing_bytes > _MOST_FRAMING_BYTES + _FRAMING_PER_BYTE * self._body_bytes:
            self._refuse(HeadersTooLarge(f"over {_MOST_FRAMING_BYTES} bytes of chunk sizes, extensions and trailers"))
        elif large > self.shared.large_heads_bytes:
            self._refuse(HeadersTooLarge("too many large heads are arriving at once"))
        elif large > 0:
            self.shared.large_heads_bytes -= large
            self._large_bytes += large

    def _return_room(self) -> None:
        self.shared.large_heads_bytes += self._large_bytes
        self._large_bytes = 0

    # The parser calls these.

    def on_message_begin(self) -> None:
        self._fields = 0
        self._head_bytes = self._head_bytes or 1  # after a body in one piece, all that counts is that it has begun
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a field of the head, up to one more than allowed, which is enough to refuse it. Trailers are dropped."""
        self._fields += 1
        if self._fields > _MOST_FIELDS:
            raise OverflowError("too many fields")  # this stops the parser, since a read may hold thousands of fields
        if self._head_bytes is not None and len(self.headers) <= MOST_HEADERS:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._return_room()
        self._drop_deadline()  # the body gets a deadline of its own
        if self.parser.should_upgrade():
            self._plain_head = self._without_upgrade()
            return
        self._head_bytes = None
        self._body_bytes = self._body_bytes_then = self._framing_bytes = 0
        super().on_headers_complete()

    def _without_upgrade(self) -> bytes | None:
        """The head without its Upgrade field.

        None for CONNECT, which always upgrades, and where a field that was not kept might be the length.
        """
        method = self.parser.get_method()
        if method == b"CONNECT" or len(self.headers) > MOST_HEADERS:
            return None
        first = b"%b %b HTTP/%b" % (method, self.url, self.parser.get_http_version().encode())
        fields = [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([first, *fields, b"", b""])

    def on_body(self, body: bytes) -> None:
        self._body_bytes += len(body)
        self._framing_bytes -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._head_bytes = self._framing_bytes = 0
        super().on_message_complete()

    # These keep deadlines.

    def _set_deadline(self) -> None:
        self._body_bytes_then = self._body_bytes
        self._deadline = self.loop.call_later(self.shared.read_timeout_s, self._on_deadline)

    def _drop_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _on_deadline(self) -> None:
        self._deadline = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused or self._unparsed or self._body_is_on_its_way():
            self._set_deadline()
        elif self._head_bytes == 0:
            self.transport.close()  # the client has sent nothing, so it waits for no answer
        else:
            self._refuse(RequestTimeout(f"the request did not arrive within {self.shared.read_timeout_s:g} seconds"))

    def _body_is_on_its_way(self) -> bool:
        """Whether a body arrives fast enough. A body whose request was refused already has one such span at most."""
        enough = self._body_bytes - self._body_bytes_then >= _LEAST_BYTES_PER_S * self.shared.read_timeout_s
        return self._head_bytes is None and enough and not self.cycle.response_complete

    # These answer.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        old = cycle.scope["http_version"] != "1.1"
        if old:
            cycle.waiting_for_100_continue = False
            cycle.keep_alive = False
        if old or cycle.waiting_for_100_continue:
            app = partial(_answered, cycle, app)
        super()._start_asgi_task(cycle, app)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # no other request waits: let go of what this one has brought
            self.cycle.scope = None  # type: ignore[assignment]
            self.cycle.body = bytearray()
            if not self._head_bytes:  # else these are the next request's
                self.scope = None  # type: ignore[assignment]
                self.headers = []
        if self._unparsed and not self.transport.is_closing():
            self._unset_keepalive_if_required()
            self._parse()

    def _refuse(self, exc: RequestError) -> None:
        """Answer with the error, unless another answer is under way, and end the connection."""
        self._deaf, self._unparsed = True, b""
        self._drop_deadline()
        self._return_room()
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and self._head_bytes is not None:
            self.cycle.keep_alive = False  # an earlier request is answered first
        elif self._head_bytes is None and (self.pipeline or self.cycle.response_started):
            self.transport.close()
        else:
            self._write_last(exc)

    def _write_last(self, exc: RequestError) -> None:
        """Write the error and close later: a client that still sends would lose it otherwise (RFC 9112, 9.6)."""
        request_id, scope = uuid.uuid4().hex, {**self.scope} if self._head_bytes is None else None
        body = error_bytes(scope, exc.status, body_of(exc), request_id)
        head = b"content-type: application/json\r\nconnection: close\r\nx-request-id: %b\r\ncontent-length: %d\r\n\r\n"
        self.transport.write(STATUS_LINE[exc.status] + head % (request_id.encode(), len(body)) + body)
        self.transport.write_eof()
        self.flow.resume_reading()
        self._deadline = self.loop.call_later(_LINGER_S, self.transport.close)


async def _answered(
    cycle: RequestResponseCycle,
    app: ASGI3Application,
    scope: Scope,
    receive: ASGIReceiveCallable,
    send: ASGISendCallable,
) -> None:
    """Run the application for a client that cannot take every answer as uvicorn would send it.

    HTTP/1.0 knows no chunks, so an answer of unknown length ends with the connection. A client that announced a body by
    `Expect` and was refused before it was asked to send it may send it or not, so the connection cannot go on.
    """
    of_unknown_length = False

    async def send_as_it_can_be_read(message: ASGISendEvent) -> None:
        nonlocal of_unknown_length
        if message["type"] == "http.response.start":
            cycle.keep_alive = cycle.keep_alive and not cycle.waiting_for_100_continue
            of_unknown_length = cycle.scope["http_version"] != "1.1" and not _has_length(message.get("headers", ()))
            cycle.chunked_encoding = False if of_unknown_length else None
        elif of_unknown_length and message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await send(message)

    await app(scope, receive, send_as_it_can_be_read)


def _has_length(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    return any(name.lower() == b"content-length" for name, _ in headers)
