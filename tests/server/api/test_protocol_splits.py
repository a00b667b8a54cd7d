"""Any requests on one connection, cut into any pieces: each gets its own answer, in order."""

import socket
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.server.api.raw import connect
from tests.server.api.test_protocol import UPGRADES, chunked, read

BODIES = [
    b'{"prompt": "x"}',
    b'{"prompt": "\\r\\n\\r\\n", "draft": "' + b"y" * 3000 + b'"}',
    b"{}",
    b"\r\n\r\n" * 40,
    b"",
]
PATHS = [b"/v1/refine", b"/health", b"/nothing", b"/v1/models"]
Request = tuple[bytes, bytes | None, bool, bytes, bool]
"""Path, body of a POST, whether it is chunked, an Upgrade or nothing, whether there are trailers."""
requests = st.tuples(
    st.sampled_from(PATHS),
    st.none() | st.sampled_from(BODIES),
    st.booleans(),
    st.sampled_from([b"", *UPGRADES]),
    st.booleans(),
)


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with running(create_app(Settings(), FakeEngine().open)) as base:
        yield base


def written(number: int, request: Request) -> bytes:
    path, body, in_chunks, upgrade, with_trailers = request
    fields = b"Host: x\r\nX-Request-Id: %d\r\n" % number + upgrade
    if body is None:
        return b"GET %b HTTP/1.1\r\n%b\r\n" % (path, fields)
    if not in_chunks or not body:
        return b"POST %b HTTP/1.1\r\n%bContent-Length: %d\r\n\r\n%b" % (path, fields, len(body), body)
    trailers = b"X-Request-Id: 77\r\nContent-Encoding: gzip\r\n" if with_trailers else b""
    head = b"POST %b HTTP/1.1\r\n%bTransfer-Encoding: chunked\r\n\r\n" % (path, fields)
    return head + chunked(body, trailers, b";a=b")


def expected(request: Request) -> int:
    """By docs/api.md, of these paths and bodies alone."""
    path, body = request[:2]
    if path == b"/nothing":
        return 404
    if path == b"/v1/refine":
        return 405 if body is None else 200 if body in BODIES[:2] else 400
    return 200 if body is None else 405


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(asked=st.lists(requests, min_size=1, max_size=6), cuts=st.lists(st.floats(0, 1), max_size=8), data=st.data())
def test_every_request_gets_its_own_answer(
    url: str, asked: list[Request], cuts: list[float], data: st.DataObject
) -> None:
    text = b"".join(written(number, request) for number, request in enumerate(asked))
    places = sorted({0, len(text), *(round(cut * len(text)) for cut in cuts)})
    with connect(url) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers: list[tuple[int, dict[str, str], bytes]] = []
        for start, end in zip(places, places[1:], strict=False):
            connection.sendall(text[start:end])
            complete = len(b"".join(written(n, r) for n, r in enumerate(asked[: len(answers) + 1]))) <= end
            if complete and data.draw(st.booleans(), label="read now"):
                answers.append(read(connection))
        while len(answers) < len(asked):
            answers.append(read(connection))
    assert [status for status, _, _ in answers] == [expected(request) for request in asked]
    assert [int(headers["x-request-id"]) for _, headers, _ in answers] == list(range(len(asked)))
