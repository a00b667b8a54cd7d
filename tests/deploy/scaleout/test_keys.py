"""The shipped application with keys, behind Ray Serve's real HTTP proxy and its `route_prefix`: one door there too."""

import json
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.deploy.scaleout.conftest import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
KEYS = {"api_keys": "me=right,you=left", "limits": {"key_requests_per_minute": 3}}
MINE, YOURS = ({"Authorization": f"Bearer {key}"} for key in ("right", "left"))
GUARDED = [
    "/v1/models",
    "/v1/refine",
    "/v1/chat/completions",
    "/v1/nothing",
    "/nothing",
    "//v1/models",
    "/%76%31/models",
]


def access_log(cluster: Cluster) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (cluster.log.parent / "access").read_text().splitlines()]


@pytest.fixture(scope="module")
def guarded(cluster: Cluster) -> Cluster:
    cluster.deploy(1, KEYS)
    Path(cluster.log.parent / "access").write_text("")
    return cluster


def test_rays_proxy_lets_nobody_in_without_a_key(guarded: Cluster) -> None:
    with httpx2.Client(base_url=guarded.url) as http:
        for path in GUARDED:
            for method in ("GET", "POST"):
                answer = http.request(method, guarded.url + path, json={"prompt": "x"} if method == "POST" else None)
                assert answer.status_code == 401, (method, path)
                assert answer.json()["error"]["code"] == "invalid_api_key"
                assert answer.headers["www-authenticate"] == "Bearer"
        assert http.get("/v1/models", headers={"Authorization": "Bearer wrong"}).status_code == 401
        for path in ("/health", "/ready", "/version", "/metrics"):
            assert http.get(path).status_code == http.head(path).status_code == 200


def test_rays_proxy_lets_a_key_in_logged_counted_and_at_its_rate(guarded: Cluster) -> None:
    known = len(access_log(guarded))
    with httpx2.Client(base_url=guarded.url, headers=MINE) as http:
        refined = http.post("/v1/refine", json={"prompt": "x"})
        bad = http.post("/v1/refine", json={"surprise": 1})
        listed = http.get("/v1/models")
        limited = http.get("/v1/models")
        nobody = httpx2.post(f"{guarded.url}/v1/refine", json={"prompt": "x"})
        other = http.get("/v1/models", headers=YOURS)
        page = http.get("/metrics").text
    answers = [refined, bad, listed, limited, nobody, other]
    assert [answer.status_code for answer in answers] == [200, 400, 200, 429, 401, 200]
    lines = access_log(guarded)[known:]
    assert [line["status"] for line in lines] == [200, 400, 200, 429, 401, 200]
    assert [line.get("key") for line in lines] == ["me", "me", "me", "me", None, "you"]
    told = [answer.headers["x-request-id"].split(", ")[0] for answer in answers]  # Ray's proxy says its own once more
    assert [line["request_id"] for line in lines] == told
    assert {line["path"] for line in lines} == {"/fake/v1/refine", "/fake/v1/models"}
    assert 'slhf_request_success_total{endpoint="refine",finish_reason="stop",model_name="fake"} 1.0' in page
    assert 'slhf_request_failure_total{endpoint="refine",error_type="invalid_request_error",model_name=""} 1.0' in page
    assert 'slhf_request_failure_total{endpoint="refine",error_type="invalid_api_key",model_name=""}' in page
