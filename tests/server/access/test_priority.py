"""A request's priority: by body or header on every endpoint, within what its key may ask for."""

import hashlib
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.contract.test_upstream_leader import GOOD, asked, settings
from tests.server.models.upstream.faulty import upstream

CHAT = [{"role": "user", "content": "what is it"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": CHAT, "n": 2},
    "completions": {"prompt": "what is it"},
    "responses": {"input": "what is it"},
    "messages": {"messages": CHAT, "max_tokens": 20},
    "refine": {"prompt": "what is it", "rounds": 2},
}


def priorities(engine: FakeEngine) -> set[int]:
    """Those of all completions so far."""
    return {sampling.priority for _, sampling in (*engine.leader.calls, *engine.follower.calls)}


def ask(url: str, endpoint: str = "refine", key: str = "", header: str | None = None, **body: Any) -> httpx2.Response:
    headers = ({"Authorization": f"Bearer {key}"} if key else {}) | (
        {} if header is None else {"X-Vllm-Priority": header}
    )
    return httpx2.post(f"{url}/v1/{endpoint}", json=BODIES[endpoint] | body, headers=headers)


@pytest.fixture
def keys(tmp_path: Path) -> Path:
    file = tmp_path / "keys.yaml"
    entries: list[dict[str, Any]] = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} for name in ("plain", "batch", "first")
    ]
    entries[1]["priority"], entries[2]["priority"] = 10, -5
    file.write_text(yaml.safe_dump(entries), encoding="utf-8")
    return file


@pytest.mark.parametrize("endpoint", BODIES)
def test_every_completion_of_a_request_has_its_priority_by_body_or_by_header_which_wins(
    serve: Serve, endpoint: str
) -> None:
    engine = FakeEngine()
    url = serve(engine)
    wishes: list[tuple[int, int | None, str | None]] = [
        (0, None, None),
        (7, 7, None),
        (-3, None, "-3"),
        (2, 7, "+2"),
    ]
    for expected, in_body, in_header in wishes:
        answer = ask(url, endpoint, header=in_header, priority=in_body)
        assert answer.status_code == 200, answer.text
        assert (priorities(engine), len(engine.follower.calls) > 0) == ({expected}, True)
        engine.leader.calls.clear()
        engine.follower.calls.clear()


def test_what_is_no_integer_of_32_bits_is_refused_by_name(serve: Serve) -> None:
    url = serve()
    for endpoint in BODIES:
        for value in (True, "1", 1.5, 2**31, -(2**31) - 1, [1]):
            answer = ask(url, endpoint, priority=value)
            assert answer.status_code == 400
            assert "priority" in answer.json()["error"]["message"]
    for header in ("soon", "1.5", "1e3", "4294967296", "99999999999", "\u00b2"):
        headers = {b"X-Vllm-Priority": header.encode()}
        answer = httpx2.post(f"{url}/v1/refine", json=BODIES["refine"], headers=headers)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "X-Vllm-Priority")


def test_a_key_has_a_priority_and_may_ask_for_nothing_sooner(serve: Serve, keys: Path) -> None:
    engine = FakeEngine()
    url = serve(engine, api_keys_file=keys)
    wishes: list[tuple[str, int | None, int | None]] = [
        ("plain", None, 0),
        ("plain", 3, 3),
        ("plain", -1, None),
        ("batch", None, 10),
        ("batch", 10, 10),
        ("batch", 9, None),
        ("first", None, -5),
        ("first", 0, 0),
        ("first", -6, None),
    ]
    for key, asked_for, expected in wishes:
        for header, in_body in ((None, asked_for), (None if asked_for is None else str(asked_for), None)):
            answer = ask(url, key=key, header=header, priority=in_body)
            found = (answer.status_code, priorities(engine))
            if expected is None:
                assert found == (400, set())
                assert answer.json()["error"]["param"] == "priority"
                assert "which is later" in answer.json()["error"]["message"]
            else:
                assert found == (200, {expected})
            engine.leader.calls.clear()
            engine.follower.calls.clear()


def test_an_upstream_gets_none(serve: Serve) -> None:
    with upstream(GOOD) as cloud:
        engine = FakeEngine()
        url = serve(engine, **settings(cloud))
        answer = ask(url, "chat/completions", priority=5, n=1)
        assert answer.status_code == 200, answer.text
        assert "priority" not in str(asked(cloud))
        assert priorities(engine) == {5}  # the Follower's
