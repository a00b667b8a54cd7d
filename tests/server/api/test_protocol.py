"""HTTP below the application, byte by byte on real sockets: upgrades, trailers, old clients, slow ones, pipelines."""

import json
import socket
import time
from collections.abc import Iterator

import httpx2
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.server.api.raw import connect, exchange
from tests.server.conftest import eventually

KEYS = {"api_keys": "me=right"}
BODY = b'{"prompt": "x"}'
LENGTH = b"Content-Length: %d\r\n" % len(BODY)
UPGRADES = [
    b"Connection: Upgrade\r\nUpgrade: h2c\r\n",
    b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQCAAAAAAIAAAAA\r\n",
    b"upgrade: H2C\r\nCONNECTION: keep-alive, UPGRADE\r\n",
    b"Connection: upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: "
    + b"A" * 22
    + b"==\r\n",
    b"Connection: Upgrade\r\nUpgrade: TLS/1.0, irc/6.9\r\nUpgrade: foo\r\n",
    b"Connection: Upgrade\r\nUpgrade:\r\n",
]


def post(extra: bytes = LENGTH, *, version: bytes = b"1.1", path: bytes = b"/v1/refine") -> bytes:
    return b"POST %b HTTP/%b\r\nHost: x\r\n%b\r\n" % (path, version, extra)


def read(connection: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One response with a Content-Length, or 100 Continue; a second one stays unread."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        byte = connection.recv(1)
        assert byte, head
        head += byte
    status, *lines = head.decode("latin-1").split("\r\n")
    headers = dict(line.lower().split(": ", 1) for line in lines if line)
    body = b""
    while len(body) < int(headers.get("content-length", 0)):
        body += connection.recv(int(headers["content-length"]) - len(body))
    return int(status.split(" ")[1]), headers, body


def ended(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    try:
        while piece := connection.recv(65536):
            received += piece
    except ConnectionError:
        pass
    return received


def cut_off(connection: socket.socket, pieces: Iterator[bytes]) -> bytes:
    """Send until it cannot be sent any more; what the server said."""
    try:
        for piece in pieces:
            connection.sendall(piece)
    except ConnectionError:
        return ended(connection)
    raise AssertionError("the server took all of it")


@pytest.mark.parametrize("upgrade", UPGRADES)
@pytest.mark.parametrize("way", ["one write", "two writes", "bytes", "chunked"])
def test_an_upgrade_field_changes_nothing(serve: Serve, upgrade: bytes, way: str) -> None:
    with connect(serve()) as connection:
        for _ in range(2):
            if way == "chunked":
                connection.sendall(post(upgrade + b"Transfer-Encoding: chunked\r\n"))
                connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
            elif way == "one write":
                connection.sendall(post(upgrade + LENGTH) + BODY)
            elif way == "two writes":
                connection.sendall(post(upgrade + LENGTH))
                connection.sendall(BODY)
            else:
                for byte in post(upgrade + LENGTH) + BODY:
                    connection.sendall(bytes([byte]))
            status, _, body = read(connection)
            assert (status, json.loads(body)["object"]) == (200, "refinement")


def test_upgrades_in_a_pipeline_are_answered_in_order(serve: Serve) -> None:
    paths = [b"/v1/models", b"/health", b"/v1/refine", b"/version", b"/v1/models"]
    with connect(serve()) as connection:
        connection.sendall(
            b"".join(
                post(UPGRADES[i] + LENGTH) + BODY
                if path == b"/v1/refine"
                else b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, UPGRADES[i])
                for i, path in enumerate(paths)
            )
        )
        answers = [json.loads(read(connection)[2]) for _ in paths]
    assert [answer.get("object", answer.get("status")) for answer in answers] == [
        "list",
        "ok",
        "refinement",
        None,
        "list",
    ]


@pytest.mark.parametrize("keys", [{}, KEYS])
def test_a_websocket_is_a_get_like_any_other(serve: Serve, keys: dict[str, str]) -> None:
    url = serve(**keys)
    many = b"".join(b"X-%d: y\r\n" % i for i in range(110))
    for path, without in ((b"/v1/refine", 405), (b"/nothing", 404), (b"/ws", 404)):
        answer = exchange(
            url, b"GET %b HTTP/1.1\r\nHost: x\r\n%b\r\n" % (path, UPGRADES[3].replace(b"upgrade", b"upgrade, close", 1))
        )
        assert (answer.status, answer.error["type"]) == (401 if keys else without, "invalid_request_error")
        refused = exchange(url, b"GET %b HTTP/1.1\r\nHost: x\r\n%b%b\r\n" % (path, many, UPGRADES[3]))
        assert refused.error["type"] == "invalid_request_error"


def test_connect_is_refused_and_what_follows_is_not_read(serve: Serve) -> None:
    answer = exchange(
        serve(), b"CONNECT evil.example:443 HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n\r\n"
    )
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
    assert answer.body.count(b"{") == 2


def chunked(body: bytes, trailers: bytes = b"", extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n0\r\n%b\r\n" % (len(body), extension, body, trailers)


def test_trailers_are_no_headers(serve: Serve) -> None:
    """They come after the key was asked for: in one packet, too, with the head."""
    head = post(b"Transfer-Encoding: chunked\r\nConnection: close\r\n")
    url = serve(**KEYS)
    assert exchange(url, head + chunked(BODY, b"Authorization: Bearer right\r\n")).status == 401
    mine = head.replace(b"Host", b"Authorization: Bearer right\r\nHost")
    answer = exchange(url, mine + chunked(BODY, b"X-Request-Id: other\r\nContent-Encoding: gzip\r\n", b";name=value"))
    assert answer.status == 200
    assert answer.headers["x-request-id"] != "other"
    assert exchange(url, mine + chunked(BODY, b"".join(b"X-%d: y\r\n" % i for i in range(150)))).status == 200


def test_tiny_chunks_are_a_body_too(serve: Serve) -> None:
    body = json.dumps({"prompt": "x", "draft": "y" * 20_000, "rounds": 0}).encode()
    pieces = b"".join(b"1;a=b\r\n%c\r\n" % byte for byte in body)
    head = post(b"Transfer-Encoding: chunked\r\nConnection: close\r\n")
    assert exchange(serve(), head + pieces + b"0\r\n\r\n").status == 200


ENDLESS = {
    "trailers": (b"1\r\n{\r\n0\r\n", b"X-%d: y\r\n"),
    "a trailer": (b"1\r\n{\r\n0\r\nX: ", b"%016d"),
    "a trailer's name": (b"1\r\n{\r\n0\r\nX", b"%016d"),
    "a chunk extension": (b"1;", b"x%016d"),
    "chunk extensions": (b"1", b";x=%016d"),
    "a quoted chunk extension": (b'1;x="', b"%016d"),
    "zeros of a chunk's size": (b"0", b"0000000000000000%.0d"),
    "extensions of tiny chunks": (b"", b"1;" + b"x" * 500 + b"=%08d\r\n{\r\n"),
}


@pytest.mark.parametrize("keys", [{}, KEYS])
@pytest.mark.parametrize("kind", ENDLESS)
def test_what_is_neither_head_nor_body_is_bounded(serve: Serve, kind: str, keys: dict[str, str]) -> None:
    begin, more = ENDLESS[kind]
    with connect(serve(**keys)) as connection:
        connection.sendall(post(b"Transfer-Encoding: chunked\r\n") + begin)
        cut_off(connection, (100 * (more % i) for i in range(1_000_000)))


def test_too_long_trailers_are_told_so(serve: Serve) -> None:
    with connect(serve()) as connection:
        connection.sendall(post(b"Transfer-Encoding: chunked\r\n") + b"1\r\n{\r\n0\r\nX: " + b"y" * 9000)
        status, headers, body = read(connection)
    assert (status, headers["connection"]) == (431, "close")
    assert json.loads(body)["error"]["code"] == "request_header_fields_too_large"


@pytest.mark.parametrize(
    "fold", [b"X: a\r\n b\r\n", b"X: a\r\n\tb\r\n", b"X:\r\n a\r\n", b"Authorization: Bearer\r\n right\r\n"]
)
def test_folded_fields_are_refused(serve: Serve, fold: bytes) -> None:
    answer = exchange(serve(), post(fold + LENGTH) + BODY)
    assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")


def test_blank_lines_before_a_request_are_counted(serve: Serve) -> None:
    url = serve()
    assert exchange(url, b"\r\n\r\n" + b"GET /health HTTP/1.0\r\n\r\n").status == 200
    with connect(url) as connection:
        cut_off(connection, (b"\r\n" * 1000 for _ in range(100_000)))


@pytest.mark.parametrize("extra", [b"", b"Connection: keep-alive\r\n", b"Expect: 100-continue\r\n"])
@pytest.mark.parametrize("stream", [False, True])
def test_http_1_0_gets_no_chunks_and_an_end(serve: Serve, stream: bool, extra: bytes) -> None:
    body = json.dumps({"prompt": "x", "stream": stream}).encode()
    head = post(b"Content-Length: %d\r\n%b" % (len(body), extra), version=b"1.0")
    answer = exchange(serve(), head + body)
    assert (answer.status, answer.headers["connection"]) == (200, "close")
    assert "transfer-encoding" not in answer.headers
    if stream:
        assert answer.body.startswith(b"event: round.started\ndata: {")
        assert answer.body.rsplit(b"event: ", 1)[1].startswith(b"refinement.completed\n")
        assert answer.body.endswith(b"}\n\n")
    else:
        assert json.loads(answer.body)["object"] == "refinement"
        assert int(answer.headers["content-length"]) == len(answer.body)


def test_http_1_0_is_refused_in_our_shape(serve: Serve) -> None:
    for request, status in ((b"HEAD /health", 200), (b"GET /nothing", 404), (b"PUT /health", 405)):
        answer = exchange(serve(), request + b" HTTP/1.0\r\n\r\n")
        assert answer.status == status
        assert status == 200 or answer.error["message"]


def test_a_body_that_waits_to_be_asked_for_is_asked_for(serve: Serve) -> None:
    with connect(serve(**KEYS)) as connection:
        connection.sendall(post(LENGTH + b"Expect: 100-continue\r\nAuthorization: Bearer right\r\n"))
        assert read(connection)[0] == 100
        connection.sendall(BODY)
        assert read(connection)[0] == 200
        connection.sendall(post(LENGTH + b"Authorization: Bearer right\r\n") + BODY)
        assert read(connection)[0] == 200


def test_a_body_that_is_not_asked_for_ends_the_connection(serve: Serve) -> None:
    """Its sender may send it or not, so nothing that follows could be told from it."""
    with connect(serve(**KEYS)) as connection:
        connection.sendall(post(LENGTH + b"Expect: 100-continue\r\n"))
        status, headers, _ = read(connection)
        assert (status, headers["connection"]) == (401, "close")
        assert ended(connection) == b""


def test_a_refused_body_is_let_pass(serve: Serve) -> None:
    with connect(serve(**KEYS)) as connection:
        connection.sendall(post(b"Content-Length: 3000000\r\n"))
        assert read(connection)[0] == 401
        connection.sendall(3_000_000 * b"x" + post(LENGTH + b"Authorization: Bearer right\r\n") + BODY)
        assert read(connection)[0] == 200


# Slow senders.

BEGINNINGS = {
    "the request line": b"POS",
    "the head": post()[:-2],
    "the body": post() + BODY[:-1],
    "nothing of the body": post(),
    "a chunk": post(b"Transfer-Encoding: chunked\r\n") + b"ff\r\n{",
    "trailers": post(b"Transfer-Encoding: chunked\r\n") + chunked(BODY, b"X: ")[:-2],
    "a blank line": b"\r\n",
}


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_who_stops_in_the_middle_is_told_and_cut(serve: Serve, beginning: str) -> None:
    with connect(serve(read_timeout_s=0.3)) as connection:
        connection.sendall(BEGINNINGS[beginning])
        status, headers, body = read(connection)
        assert (status, headers["connection"]) == (408, "close")
        assert json.loads(body)["error"]["code"] == "request_timeout"
        assert ended(connection) == b""


@pytest.mark.parametrize("beginning", BEGINNINGS)
def test_who_sends_a_byte_now_and_then_is_cut(serve: Serve, beginning: str) -> None:
    """The pauses are the waits for an answer."""
    slow = b"x" if beginning != "trailers" else b"y"
    with connect(serve(read_timeout_s=0.5)) as connection:
        connection.sendall(BEGINNINGS[beginning])
        connection.settimeout(0.05)
        give_up = time.monotonic() + 20
        received = b""
        while not received and time.monotonic() < give_up:
            try:
                connection.sendall(slow)
                received = connection.recv(4096)
            except TimeoutError:
                pass
    assert received.startswith((b"HTTP/1.1 408 ", b"HTTP/1.1 400 "))


def test_who_says_nothing_is_cut_without_a_word(serve: Serve) -> None:
    with connect(serve(read_timeout_s=0.3)) as connection:
        assert ended(connection) == b""


def test_a_refused_body_must_come_to_an_end(serve: Serve) -> None:
    """However fast it is: nobody wants it."""
    with connect(serve(read_timeout_s=0.5, **KEYS)) as connection:
        connection.sendall(post(b"Content-Length: 999999999999\r\n"))
        assert read(connection)[0] == 401
        assert cut_off(connection, (10_000 * b"x" for _ in range(100_000_000))) == b""


def test_a_steady_body_may_take_its_time(serve: Serve) -> None:
    """Longer than the timeout in all: each span of it brings enough."""
    body = json.dumps({"prompt": "x", "draft": "y" * 40_000, "rounds": 0}).encode()
    with connect(serve(read_timeout_s=0.4)) as connection:
        connection.sendall(post(b"Content-Length: %d\r\n" % len(body)))
        connection.settimeout(0.05)
        for start in range(0, len(body), 1000):
            connection.sendall(body[start : start + 1000])
            if start + 1000 < len(body):
                with pytest.raises(TimeoutError):
                    connection.recv(1)
        connection.settimeout(20)
        assert read(connection)[0] == 200


def test_neither_a_long_answer_nor_an_idle_connection_is_cut(serve: Serve) -> None:
    url = serve(FakeEngine(lambda turns: "a b c d", token_seconds=0.1), read_timeout_s=0.2)
    with connect(url) as connection:
        for _ in range(2):
            connection.sendall(post() + BODY)
            assert read(connection)[0] == 200
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(1)
            connection.settimeout(20)


# Pipelines.


def test_a_long_pipeline_is_answered_in_order_and_whole(serve: Serve) -> None:
    url = serve()
    with connect(url) as connection:
        for _ in range(4):
            connection.sendall(b"".join(b"GET /health HTTP/1.1\r\nX-Request-Id: %d\r\n\r\n" % i for i in range(300)))
            assert [int(read(connection)[1]["x-request-id"]) for _ in range(300)] == list(range(300))


def test_bodies_in_a_pipeline_are_told_apart(serve: Serve) -> None:
    drafts = [str(i) * (1 + 997 * i % 20_000) for i in range(12)]
    bodies = [json.dumps({"prompt": "\r\n\r\n" * 5, "draft": draft, "rounds": 0}).encode() for draft in drafts]
    requests = [
        post(b"Content-Length: %d\r\n" % len(body)) + body
        if i % 2
        else post(b"Transfer-Encoding: chunked\r\n") + chunked(body)
        for i, body in enumerate(bodies)
    ]
    with connect(serve()) as connection:
        connection.sendall(b"".join(requests))
        assert [json.loads(read(connection)[2])["output"] for _ in drafts] == drafts


@pytest.mark.parametrize("rest", [b"nonsense\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"y" * 50_000, b"GET /x"])
def test_an_answer_under_way_is_not_written_into(serve: Serve, rest: bytes) -> None:
    """What is wrong with the next request is no part of this one's answer."""
    url = serve(FakeEngine(lambda turns: "a b c d e", token_seconds=0.05), read_timeout_s=0.3)
    body = b'{"prompt": "x", "stream": true, "rounds": 0}'
    with connect(url) as connection:
        connection.sendall(post(b"Content-Length: %d\r\n" % len(body)) + body + rest)
        received = ended(connection)
    assert received.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"refinement.completed" in received
    answer, _, after = received.partition(b"0\r\n\r\n")
    assert b"HTTP/1.1" not in answer[20:]
    assert after == b"" or after.startswith(b"HTTP/1.1 4")


def test_a_client_that_goes_in_the_middle_of_a_body_leaves_nothing(serve: Serve) -> None:
    url = serve(limits={"running": 1, "waiting": 0})
    for beginning in BEGINNINGS.values():
        with connect(url) as connection:
            connection.sendall(beginning)
    assert eventually(lambda: httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}).status_code == 200)


@pytest.mark.parametrize("cut", [1, 5, 20, 40, 60])
def test_a_head_that_begins_before_the_answer_to_the_last_request_is_kept(serve: Serve, cut: int) -> None:
    head = b"GET /v1/models HTTP/1.1\r\nX-Request-Id: mine\r\nAuthorization: Bearer right\r\n\r\n"
    with connect(serve(**KEYS)) as connection:
        for _ in range(3):
            connection.sendall(post(LENGTH + b"Authorization: Bearer right\r\n") + BODY + head[:cut])
            assert read(connection)[0] == 200
            connection.sendall(head[cut:])
            status, headers, _ = read(connection)
            assert (status, headers["x-request-id"]) == (200, "mine")
