"""Heads of requests that are too large or no HTTP: an error object in every case, on a real socket."""

import socket

import pytest

from slhf_server.api.middleware import MOST_HEADER_BYTES, MOST_HEADERS
from tests.conftest import Serve
from tests.server.api.raw import Answer, connect, exchange


def get(url: str, *lines: str) -> Answer:
    head = ["GET /v1/models HTTP/1.1", "Host: x", "Connection: close", *lines, "", ""]
    return exchange(url, "\r\n".join(head).encode())


def test_as_many_headers_as_allowed_are_read(serve: Serve) -> None:
    url = serve()
    many = [f"X-{i}: y" for i in range(MOST_HEADERS - 2)]
    assert get(url, *many).status == 200
    refused = get(url, *many, "X-More: y")
    assert (refused.status, refused.error["code"]) == (431, "request_header_fields_too_large")
    assert refused.headers["x-request-id"]
    assert refused.headers["content-type"] == "application/json"


def test_as_many_bytes_as_allowed_are_read(serve: Serve) -> None:
    """Counted are names and values: `Host: x` and `Connection: close` have 20, `X-Big` has 5."""
    url = serve()
    fits = "y" * (MOST_HEADER_BYTES - 20 - 5)
    assert get(url, f"X-Big: {fits}").status == 200
    assert get(url, f"X-Big: {fits}y").error["code"] == "request_header_fields_too_large"
    assert get(url, f"X-Big: {60_000 * 'y'}").error["code"] == "request_header_fields_too_large"


def send_lines(connection: socket.socket, line: bytes) -> None:
    for i in range(1_000_000):
        connection.sendall(line % i)


@pytest.mark.parametrize("line", [b"X-%d: y\r\n", b"y%d"], ids=["lines", "one line"])
def test_a_head_that_never_ends_is_cut_off(serve: Serve, line: bytes) -> None:
    with connect(serve()) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nX: ")
        with pytest.raises((ConnectionError, TimeoutError)):
            send_lines(connection, line)


def test_a_head_over_the_limit_that_has_not_ended_is_told_so(serve: Serve) -> None:
    with connect(serve()) as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nX: " + 2 * MOST_HEADER_BYTES * b"y")
        assert connection.recv(100).startswith(b"HTTP/1.1 431 Request Header Fields Too Large\r\n")


def test_a_connection_serves_many_requests_and_large_bodies(serve: Serve) -> None:
    """What is counted is a head: not bodies, and not the heads before."""
    url = serve()
    body = b'{"prompt": "x", "draft": "%s", "rounds": 0}' % (3 * MOST_HEADER_BYTES * b"y")
    head = "POST /v1/refine HTTP/1.1\r\nHost: x\r\nX: %s\r\nConnection: %s\r\nContent-Length: %d\r\n\r\n"
    with connect(url) as connection:
        for _ in range(5):
            connection.sendall((head % (20_000 * "y", "keep-alive", len(body))).encode() + body)
            received = b""
            while b'"object":"refinement"' not in received.replace(b" ", b"") or not received.endswith(b"}"):
                received += (piece := connection.recv(65536))
                assert piece
            assert received.startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Length: 2", "Content-Length: 3"],
        ["Content-Length: 2", "Content-Length: 2"],
        ["Content-Length: two"],
        ["Content-Length: -2"],
        ["Content-Length: +2"],
        ["Content-Length: 0x2"],
        ["Content-Length: 2, 2"],
        ["Content-Length: 99999999999999999999999"],
        ["Content-Length: 2", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Content-Length: 2"],
        [" folded: yes"],
        ["No colon"],
        ["Na me: x"],
    ],
)
def test_ambiguous_or_malformed_heads_are_refused_with_an_error_object(serve: Serve, lines: list[str]) -> None:
    head = ["POST /v1/refine HTTP/1.1", "Host: x", *lines, "", "{}"]
    answer = exchange(serve(), "\r\n".join(head).encode())
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert answer.headers["content-type"] == "application/json"


def test_what_is_no_http_is_refused_with_an_error_object(serve: Serve) -> None:
    url = serve()
    for noise in (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", b"hello there\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"):
        assert exchange(url, noise).error["type"] == "invalid_request_error"


@pytest.mark.parametrize("host", ["[", "evil.example/v1", "a:b:c", "\\", "x@y", ""])
def test_a_host_that_is_none_changes_no_refusal(serve: Serve, host: str) -> None:
    """Starlette would parse it into the request's URL."""
    url = serve(api_keys="me=right")
    head = f"POST /v1/refine HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\nContent-Length: 2\r\n"
    assert exchange(url, f"{head}\r\n{{}}".encode()).status == 401
    assert exchange(url, f"{head}Authorization: Bearer right\r\n\r\n{{}}".encode()).status == 400
