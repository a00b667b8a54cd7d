"""Who is let in, on a real socket: every route but the open ones asks for a key; refused before the body is read."""

import httpx2
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.server.api.raw import exchange
from tests.server.conftest import eventually

KEYS = {"api_keys": "me=right,you=left"}
MINE = {"Authorization": "Bearer right"}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/models"),
        ("HEAD", "/v1/models"),
        ("GET", "/v1/models/fake"),
        ("POST", "/v1/refine"),
        ("POST", "/v1/chat/completions"),
        ("OPTIONS", "/v1/refine"),
        ("GET", "/v1/unknown"),
        ("GET", "/%76%31/models"),
    ],
)
def test_every_route_asks_for_a_key(serve: Serve, method: str, path: str) -> None:
    answer = httpx2.request(method, serve(**KEYS) + path)
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.headers["x-request-id"]
    if method != "HEAD":
        assert answer.json()["error"] == {
            "message": "no API key: send 'Authorization: Bearer KEY' or 'x-api-key: KEY'",
            "type": "invalid_request_error",
            "param": None,
            "code": "invalid_api_key",
        }


def test_probes_and_scrapers_need_none(serve: Serve) -> None:
    url = serve(**KEYS)
    for path in ("/health", "/ready", "/version", "/metrics"):
        assert httpx2.get(url + path).status_code == 200
    assert httpx2.get(f"{url}/nothing").status_code == 401


def test_without_keys_nobody_is_asked(serve: Serve) -> None:
    url = serve()
    for name in ("Authorization", "x-api-key"):
        assert httpx2.get(f"{url}/v1/models", headers={name: "Bearer whatever"}).status_code == 200


def test_the_right_key_gets_its_answer(serve: Serve) -> None:
    url = serve(**KEYS)
    assert httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}, headers=MINE).status_code == 200
    wrong = httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}, headers={"Authorization": "Bearer nobodys"})
    assert wrong.status_code == 401
    assert "nobodys" not in wrong.text


@pytest.mark.parametrize("path", ["/v1/models", "/v1/models/fake", "/openapi.json"])
def test_a_key_may_come_as_anthropics_clients_send_it(serve: Serve, path: str) -> None:
    url = serve(**KEYS)
    assert httpx2.get(url + path, headers={"x-api-key": "right"}).status_code == 200
    assert httpx2.get(f"{url}/v1/models", headers={"x-api-key": "nobodys"}).status_code == 401


@pytest.mark.parametrize(
    ("authorization", "x_api_key", "status"),
    [("Bearer right", "nobodys", 200), ("Bearer nobodys", "right", 401), ("Basic x", "right", 401)],
)
def test_authorization_is_read_first(serve: Serve, authorization: str, x_api_key: str, status: int) -> None:
    headers = {"Authorization": authorization, "x-api-key": x_api_key}
    assert httpx2.get(f"{serve(**KEYS)}/v1/models", headers=headers).status_code == status


def test_a_request_is_refused_before_its_body_has_come(serve: Serve) -> None:
    """The body that is announced is never sent."""
    head = b"POST /v1/refine HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 1000\r\n\r\n"
    assert exchange(serve(**KEYS), head).status == 401


def test_the_keys_name_is_in_no_metric(serve: Serve) -> None:
    url = serve(api_keys="nameofmine=right", limits={"key_requests_per_minute": 1})
    for headers in (MINE, MINE, {}):
        httpx2.post(f"{url}/v1/refine", json={"prompt": "x"}, headers=headers)
    page = httpx2.get(f"{url}/metrics").text
    for code in ("invalid_api_key", "rate_limit_exceeded"):
        assert f'slhf_request_failure_total{{endpoint="refine",error_type="{code}",model_name=""}} 1.0' in page
    assert "nameofmine" not in page


def test_one_keys_rate_is_not_anothers(serve: Serve) -> None:
    url = serve(**KEYS, limits={"key_requests_per_minute": 1})
    asked = [
        httpx2.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}) for key in 2 * ("right", "left")
    ]
    assert [answer.status_code for answer in asked] == [200, 200, 429, 429]
    assert 1 <= int(asked[-1].headers["retry-after"]) <= 60


def test_a_client_that_goes_gives_its_place_back(serve: Serve) -> None:
    endless = FakeEngine(lambda turns: "word " * 4000, token_seconds=0.05)
    url = serve(endless, **KEYS, limits={"key_concurrency": 1})
    with httpx2.Client(base_url=url, headers=MINE) as http:
        body = {"prompt": "x", "stream": True, "rounds": 8}
        with http.stream("POST", "/v1/refine", json=body) as stream:
            lines = stream.iter_lines()  # dropping the iterator would close the stream
            next(lines)
            assert http.get("/v1/models").status_code == 429
        assert eventually(lambda: http.get("/v1/models").status_code == 200)
