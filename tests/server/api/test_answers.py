"""Every answer is ours, whoever makes it: all routes, methods and refusals, on a real socket.

An error is OpenAI's object, or Anthropic's on its paths. Each answer has an id, and none sends a client to an address
made of its own words.
"""

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import pytest
from fastapi import FastAPI

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import Serve, running
from tests.server.api.raw import exchange

METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "LOCK", "PROPFIND"]
MINE = {"Authorization": "Bearer right"}
PAGE = "https://page.example"
REFUSALS: dict[str, tuple[dict[str, str], bytes]] = {
    "nothing": ({}, b""),
    "no key": ({"Authorization": "Basic x"}, b"{}"),
    "a wrong key": ({"Authorization": "Bearer wrong"}, b"{}"),
    "too many headers": (MINE | {f"X-{i}": "y" for i in range(101)}, b"{}"),
    "an encoded body": (MINE | {"Content-Encoding": "gzip"}, b"\x1f\x8b\x08\x00"),
    "another type": (MINE | {"Content-Type": "text/plain"}, b"hello"),
    "no JSON": (MINE, b"{"),
    "no UTF-8": (MINE, b'{"\xff": 1}'),
    "too large": (MINE, b"x" * 2000),
    "an unknown key": (MINE, b'{"surprise": 1}'),
    "a page of another origin": (MINE | {"Origin": "https://evil.example"}, b"{}"),
    "a preflight of another origin": ({"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}, b""),
    "a preflight of another method": ({"Origin": PAGE, "Access-Control-Request-Method": "DELETE"}, b""),
}


@pytest.fixture(scope="module")
def app() -> FastAPI:
    limits = {"body_bytes": 1000}
    return create_app(Settings(api_keys="me=right", cors_origins=[PAGE], limits=limits), FakeEngine().open)


@pytest.fixture(scope="module")
def url(app: FastAPI) -> Iterator[str]:
    with running(app) as base:
        yield base


def spellings(path: str) -> list[str]:
    return [path + "/", "/" + path, path + "%0A"]


def walks(app: FastAPI) -> Iterator[tuple[str, str, dict[str, str], bytes]]:
    """Every route by every method with every reason to refuse it, and paths that are nearly one."""
    known = [getattr(route, "path", "/").replace("{name:path}", "fake") for route in app.routes]
    odd = [spelling for path in known for spelling in spellings(path)]
    odd += ["/", "//", "/nothing", "/v1", "/v1/", "/%2e%2e/health", "/docs/../v1/models"]
    for headers, body in REFUSALS.values():
        yield from ((method, path, headers, body) for path in known for method in METHODS)
        yield from ((method, path, headers, body) for path in odd for method in ("GET", "POST"))


def test_every_answer_on_every_path_is_ours(app: FastAPI, url: str) -> None:
    connection = HTTPConnection(url.removeprefix("http://"), timeout=20)
    for method, path, headers, body in walks(app):
        connection.request(method, path, body or None, {"Host": "evil.example", **headers})
        answer = connection.getresponse()
        check(answer.status, dict(answer.getheaders()), answer.read(), method, path, (method, path, headers))
    connection.close()


def check(status: int, headers: dict[str, str], body: bytes, method: str, path: str, asked: Any) -> None:
    named = {name.lower(): value for name, value in headers.items()}
    anthropics = path.startswith("/v1/messages")
    assert named["x-request-id"], asked
    assert named.get("request-id") == (named["x-request-id"] if anthropics else None), asked
    assert "location" not in named, asked
    if status < 400:
        return
    assert named["content-type"] == "application/json", asked
    assert status != 405 or named["allow"], asked
    if method == "HEAD":
        assert body == b"", asked
    elif anthropics:
        check_anthropics(json.loads(body), named["request-id"], status, asked)
    else:
        error = json.loads(body)["error"]
        assert set(error) == {"message", "type", "param", "code"}, asked
        assert error["message"], asked
        assert error["type"] in ("invalid_request_error", "server_error", "rate_limit_error"), asked
    assert status < 500, asked


def check_anthropics(body: Any, request_id: str, status: int, asked: Any) -> None:
    assert (body["type"], body["request_id"]) == ("error", request_id), asked
    assert {"type", "message"} <= set(body["error"]) <= {"type", "message", "details"}, asked
    kinds = {401: "authentication_error", 404: "not_found_error", 413: "request_too_large"}
    assert body["error"]["type"] == kinds.get(status, "invalid_request_error"), asked


@pytest.mark.parametrize(
    "path",
    ["/health", "/ready", "/version", "/metrics", "/v1/models", "/v1/models/fake", "/docs", "/openapi.json"],
)
def test_head_is_get_without_the_body(serve: Serve, path: str) -> None:
    url = serve()
    whole, head = httpx2.get(url + path), httpx2.head(url + path)
    assert (head.status_code, head.content) == (whole.status_code, b"") == (200, b"")
    differ = {"date", "x-request-id"} | ({"content-length"} if path == "/metrics" else set())
    assert {k: v for k, v in head.headers.items() if k not in differ} == {
        k: v for k, v in whole.headers.items() if k not in differ
    }


@pytest.mark.parametrize(("path", "status"), [("/nothing", 404), ("/v1/refine", 405), ("/v1/models/nobody", 404)])
def test_head_is_refused_as_get_is(serve: Serve, path: str, status: int) -> None:
    answer = httpx2.head(serve() + path)
    assert (answer.status_code, answer.content) == (status, b"")
    assert answer.headers["content-type"] == "application/json"


def test_a_wrong_method_learns_the_right_ones(serve: Serve) -> None:
    url = serve()
    for method, path, allowed in (("PUT", "/v1/refine", "POST"), ("POST", "/health", "GET, HEAD")):
        answer = httpx2.request(method, url + path)
        assert (answer.status_code, answer.headers["allow"]) == (405, allowed)


def test_a_slash_at_the_end_is_another_path(serve: Serve) -> None:
    url = serve()
    for path in ("/health/", "/v1/refine/", "/v1/chat/completions/"):
        answer = httpx2.post(url + path, json={"prompt": "x"}, headers={"Host": "evil.example"})
        assert (answer.status_code, answer.json()["error"]["type"]) == (404, "invalid_request_error")
        assert "location" not in answer.headers


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "zstd", "x-gzip", "GZIP", "identity, gzip", "nonsense"])
def test_an_encoded_body_is_refused_by_its_header_alone(serve: Serve, encoding: str) -> None:
    """The body that is announced is never sent."""
    head = f"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Encoding: {encoding}\r\nConnection: close\r\n"
    answer = exchange(serve(), head.encode() + b"Content-Length: 1000\r\n\r\n")
    assert (answer.status, answer.error["code"]) == (415, "unsupported_content_encoding")
    assert "Content-Encoding" in answer.error["message"]
    assert answer.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("encoding", ["identity", "Identity", "", "identity,identity"])
def test_a_body_as_it_is_may_say_so(serve: Serve, encoding: str) -> None:
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "x"}, headers={"Content-Encoding": encoding})
    assert answer.status_code == 200


def test_a_page_can_read_of_a_bug_what_it_is_told_to_report(serve: Serve) -> None:
    def broken(turns: object) -> str:
        raise ZeroDivisionError("secret")

    url = serve(FakeEngine(broken), api_keys="me=right", cors_origins=[PAGE])
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}, headers=MINE | {"Origin": PAGE})
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "internal_error")
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "x-request-id" in answer.headers["access-control-expose-headers"].lower()
    assert answer.headers["x-request-id"] in answer.json()["error"]["message"]
    assert "secret" not in answer.text


def test_what_the_framework_says_in_words_becomes_an_error_object(serve: Serve) -> None:
    asked = {"Origin": "https://evil.example", "Access-Control-Request-Method": "DELETE"}
    answer = httpx2.options(f"{serve(cors_origins=[PAGE])}/v1/refine", headers=asked)
    assert (answer.status_code, answer.json()["error"]["message"]) == (400, "Disallowed CORS origin, method")


@pytest.mark.parametrize("spec", ["./somewhere/bundle", "/srv/models/bundle", "~/bundle", "dir/bundle"])
def test_version_shows_no_path(serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str) -> None:
    (tmp_path / "dir" / "bundle").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    answer = httpx2.get(f"{serve(bundle=spec)}/version")
    assert answer.json()["bundle"] == "fake"  # what the manifest calls itself
    assert spec not in answer.text


@pytest.mark.parametrize("spec", ["builtin:smollm2-135m", "owner/name"])
def test_version_shows_what_is_public(serve: Serve, spec: str) -> None:
    assert httpx2.get(f"{serve(bundle=spec)}/version").json()["bundle"] == spec


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x00\xc8\x01\x00\x00\xc4\x03\x03" + bytes(100),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 500 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * (64 << 10),
    ],
    ids=["TLS", "HTTP/2", "CONNECT", "two lengths", "too many fields", "too long a field"],
)
def test_what_is_refused_below_the_application_is_ours_too(url: str, sent: bytes) -> None:
    answer = exchange(url, sent)
    check(answer.status, answer.headers, answer.body, "GET", "", sent[:40])
