"""One door: who is let in, what is logged and what is counted follow the route, whatever the path is written like."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount

from slhf_server.api.playground import page
from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.server.api.asgi import Answer, Loop

PROBES = ["/health", "/ready", "/metrics", "/version", "/docs", "/redoc", "/openapi.json", "/docs/oauth2-redirect"]
PAGE = ["/", "/playground/main.js", "/playground/playground.css", "/playground/vendor/purify.js"]
"""Some of its files; tests/server/api/playground asks for all."""
OPEN = [*PROBES, *PAGE]
"""The whole list: a route that is added needs a key unless it is added here too."""
GUARDED = ["/v1/models", "/v1/models/fake", "/v1/refine", "/v1/chat/completions", "/v1/completions", "/v1/responses"]
GUARDED += ["/v1/messages", "/v1/messages/count_tokens", "/tokenize", "/detokenize"]
UNKNOWN = ["", "/index.html", "/playground", "/playground/page.py", "/v1", "/v2/models", "/nothing", "/health/more"]
UNKNOWN += ["/v1/unknown", "/readyz", "/v1/metrics"]
MINE = {"authorization": "Bearer right"}
PREFIXES = ["", "/small", "/tulu-8b", "/a/b", "/v1", "/health", "/v1/refine", "/docs", "/sm%41ll", "/klein-größe"]
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"]


@pytest.fixture(scope="module")
def loop() -> Iterator[Loop]:
    live = Loop(create_app(Settings(api_keys="me=right"), FakeEngine().open))
    yield live
    live.close()


def spelled(path: str) -> st.SearchStrategy[str]:
    """The path, and what a proxy or a client may make of it."""
    ways = [path, path + "/", "/" + path, path + "//", path + "\n", path + "/.", path + "?", path + "%2f"]
    ways += [path.upper(), path.replace("/", "//"), path.replace("/", "/./"), "/x/.." + path, path + ";a=b", path + " "]
    ways += ["//x" + path, path.replace("/v1", "/V1"), path + "#", path + "\0", path.lstrip("/"), path + "\r\n"]
    return st.sampled_from(ways)


class Way:
    """How a request reaches the application: under which prefix, by which mechanism."""

    def __init__(self, loop: Loop, kind: str, prefix: str) -> None:
        self._loop = loop
        self._root, self._begin = "", ""
        self._through: Starlette | None = None
        if kind in ("mounted", "mounted below a root path"):
            outer = Starlette(routes=[Mount(prefix, loop.app)])
            outer.router.redirect_slashes = False
            self._through, self._begin = outer, prefix
        if kind == "mounted below a root path":
            self._root, self._begin = "/outer", "/outer" + prefix
        elif kind == "root path":
            self._root, self._begin = prefix, prefix
        elif kind == "root path that the proxy cut off":
            self._root = prefix

    def ask(self, method: str, path: str, **more: Any) -> Answer:
        return self._loop.ask(method, self._begin + path, root_path=self._root, through=self._through, **more)


WAYS = ["plain", "mounted", "mounted below a root path", "root path", "root path that the proxy cut off"]
requests = st.tuples(
    st.sampled_from(WAYS),
    st.sampled_from(PREFIXES),
    st.sampled_from([*OPEN, *GUARDED, *UNKNOWN]).flatmap(spelled),
    st.sampled_from(METHODS),
)


def may_be_reached_without_key(way: str, prefix: str, path: str) -> bool:
    """By the contract: the open routes under whatever prefix, and nothing else.

    A newline at the end may belong to Starlette's pattern (`$`). A root path that also begins the path is taken off.
    """
    names = {path.removesuffix("\n")}
    if way == "root path that the proxy cut off" and f"{path}/".startswith(prefix + "/"):
        names = {path.removeprefix(prefix).removesuffix("\n")}
    if way == "root path" and path and not path.startswith("/"):  # the root path's name goes on, and is not taken off
        names = {f"{prefix}{path}".removesuffix("\n")}
    return bool(names & set(OPEN))


@settings(max_examples=1500, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(request=requests)
@example(request=("root path", "/small", "/v1/refine", "POST"))
@example(request=("mounted", "/small", "/v1/models", "GET"))
@example(request=("root path that the proxy cut off", "/small", "/v1/refine", "POST"))
@example(request=("root path", "/v1", "/health", "GET"))
@example(request=("plain", "", "/health/", "GET"))
@example(request=("root path", "/health", "\n", "GET"))
def test_nothing_but_the_open_routes_answers_without_a_key(loop: Loop, request: tuple[str, str, str, str]) -> None:
    kind, prefix, path, method = request
    answer = Way(loop, kind, prefix).ask(method, path, body=b'{"prompt": "x"}')
    if answer.status == 404 and kind.startswith("mounted") and "x-request-id" not in answer.headers:
        return  # the path lies outside of the mount: this application was not asked
    if may_be_reached_without_key(kind, prefix, path):
        assert answer.status in (200, 405) or (path.endswith("\n") and answer.status == 401), request
    else:
        assert (answer.status, answer.headers.get("www-authenticate")) == (401, "Bearer"), request
        assert (
            method == "HEAD"
            or "authentication_error" in answer.error["type"]
            or answer.error["code"] == "invalid_api_key"
        )


@pytest.mark.parametrize("prefix", ["/small", "/v1/refine", "/health", "/a/b"])
@pytest.mark.parametrize("kind", WAYS)
def test_keys_rates_log_and_metrics_hold_however_the_application_is_reached(
    kind: str, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    limited = Settings(api_keys="me=right", limits={"key_requests_per_minute": 3})
    live = Loop(create_app(limited, FakeEngine().open))
    way = Way(live, kind, prefix)
    with caplog.at_level(logging.INFO, "slhf_server.access"):
        asked = [
            way.ask("POST", "/v1/refine", body=body, headers=headers)
            for body, headers in [(b'{"prompt": "x"}', MINE), (b"{}", {}), (b"{}", MINE), (b"{}", MINE), (b"{}", MINE)]
        ]
    metrics = live.ask("GET", "/metrics").body.decode()
    live.close()
    if kind == "root path that the proxy cut off" and prefix == "/v1/refine":
        return  # which of both it is cannot be told, and the router takes it for the root path itself
    assert [answer.status for answer in asked] == [200, 401, 400, 400, 429]
    lines = [record for record in caplog.records if record.name == "slhf_server.access"]
    assert [getattr(line, "status", None) for line in lines] == [200, 401, 400, 400, 429]
    assert [getattr(line, "key", None) for line in lines] == ["me", None, "me", "me", "me"]
    assert [line.__dict__["request_id"] for line in lines] == [answer.headers["x-request-id"] for answer in asked]
    for code, count in (("invalid_api_key", 1), ("invalid_request_error", 2), ("rate_limit_exceeded", 1)):
        line = f'slhf_request_failure_total{{endpoint="refine",error_type="{code}",model_name=""}} {count}.0'
        assert line in metrics
    assert 'slhf_request_success_total{endpoint="refine",finish_reason="stop",model_name="fake"} 1.0' in metrics


def test_every_route_but_the_named_ones_asks_for_a_key(loop: Loop) -> None:
    """Also a route that somebody adds and forgets about."""
    app = create_app(Settings(api_keys="me=right"), FakeEngine().open)
    app.add_api_route("/votes", lambda: "counted", methods=["POST"])
    new = Loop(app)
    paths = {getattr(route, "path", "") for route in app.routes}
    assert paths >= {*OPEN, "/v1/refine", "/votes"}
    for path in paths - set(PROBES) - page.PATHS:
        for method in METHODS:
            assert new.ask(method, path).status == 401, (method, path)
    assert new.ask("POST", "/votes", headers=MINE).status == 200
    new.close()


def test_who_has_no_key_does_not_learn_which_paths_there_are(loop: Loop) -> None:
    answers = [loop.ask("GET", path) for path in ("/v1/models", "/v1/nothing", "/nothing", "/playground", "/v1/refine")]
    assert len({(answer.status, answer.body) for answer in answers}) == 1


def test_what_is_open_is_not_logged_and_everything_else_is(loop: Loop, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "slhf_server.access"):
        for path in (*OPEN, *GUARDED, *UNKNOWN):
            loop.ask("GET", path)
    logged = [record.__dict__["path"] for record in caplog.records if record.name == "slhf_server.access"]
    assert logged == [*GUARDED, *UNKNOWN]


@pytest.mark.parametrize("path", ["/health", "/v1/refine", "/ws", "/v1/models"])
@pytest.mark.parametrize("count", [0, 3, 101, 1000])
def test_a_websocket_is_refused_whatever_its_headers(loop: Loop, path: str, count: int) -> None:
    headers = [(b"x-%d" % i, b"y" * 100) for i in range(count)]
    (closed,) = loop.shake(path, headers, {})
    assert closed["type"] == "websocket.close"
    start, body = loop.shake(path, headers, {"websocket.http.response": {}})
    assert (start["type"], start["status"]) == ("websocket.http.response.start", 400)
    assert json.loads(body["body"])["error"]["type"] == "invalid_request_error"
