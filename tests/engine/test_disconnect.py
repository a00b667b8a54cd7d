"""Clients that go away at any point leave nothing behind in the real engine."""

import concurrent.futures
import contextlib
import random
import time
from typing import Any

import httpx2
import pytest

from tests.engine.conftest import LiveServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]
ABANDONED = 60
AT_ONCE = 12


def abandon(server: LiveServer, number: int) -> None:
    """Ask, and hang up after a random time: before anything, in the Leader's turn, or in a later round."""
    chance = random.Random(number)
    draft = {"draft": "Drink water. Rest."} if chance.random() < 0.5 else {}
    body: dict[str, Any] = {"prompt": f"Give advice number {number}.", "rounds": 8, "max_tokens": 24, **draft}
    url = f"{server.url}/v1/refine"
    with contextlib.suppress(httpx2.TimeoutException):
        if chance.random() < 0.5:
            httpx2.post(url, json=body, timeout=chance.uniform(0.001, 5))
            return
        events = chance.randrange(60)
        with httpx2.stream("POST", url, json=body | {"stream": True}, timeout=60) as answer:
            for _, _line in zip(range(events), answer.iter_lines(), strict=False):
                pass


def test_abandoned_requests_leave_the_engine_within_two_seconds(live: LiveServer) -> None:
    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(lambda number: abandon(live, number), range(ABANDONED)))
    left = time.monotonic()
    while live.metric("vllm:num_requests_running") or live.metric("slhf_num_requests_running"):
        assert time.monotonic() - left < 2, "still generating for nobody"
    assert live.metric("vllm:num_requests_waiting") == 0
    answer = httpx2.post(f"{live.url}/v1/refine", json={"prompt": "Hi", "rounds": 1, "max_tokens": 4}, timeout=60)
    assert answer.status_code == 200
