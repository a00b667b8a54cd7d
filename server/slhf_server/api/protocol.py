"""The connection, before there is a request: what cannot be parsed is refused in our error's shape too.

Uvicorn's httptools protocol, with two changes: its refusal is JSON, and a request's head is bounded while it arrives
(httptools itself would keep a head that never ends). A head of more than `MOST_HEADER_BYTES` that did arrive in time
is refused by `HeaderLimit`, with the request's id.
"""

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from slhf.wire import ErrorResponse
from slhf_server.api.failures import body_of
from slhf_server.api.middleware import MOST_HEADER_BYTES
from slhf_server.errors import BadRequest, HeadersTooLarge, RequestError

_MOST_HEAD_BYTES = 2 * MOST_HEADER_BYTES  # the request line too, and room for a refusal that has an id


class Protocol(HttpToolsProtocol):
    """One connection."""

    _head_bytes: int | None = 0
    """Bytes of the head that is arriving; None while a body is."""

    def data_received(self, data: bytes) -> None:
        if self._head_bytes is not None:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._head_bytes is not None and self._head_bytes > _MOST_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(HeadersTooLarge(f"the request's head is over {_MOST_HEAD_BYTES} bytes"))

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        super().on_headers_complete()

    def on_message_complete(self) -> None:
        self._head_bytes = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Uvicorn's answer to what httptools cannot parse: a bad request line, two or odd lengths of the body."""
        self._refuse(BadRequest(f"{msg.rstrip('.')}: it is no well-formed HTTP/1.1"))

    def _refuse(self, exc: RequestError) -> None:
        body = ErrorResponse(error=body_of(exc)).model_dump_json().encode()
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[exc.status] + head + body)
        self.transport.close()
