"""Requests of every kind to a server with a fake engine and two upstreams, so that every metric is counted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from tempfile import TemporaryDirectory
from typing import Any

import httpx2

from slhf_server.app import create_app
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said, improve
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.server.models.upstream.faulty import HELLO, USAGE, error, says, upstream

GOOD = says({**HELLO, "usage": USAGE})
LISTED = says({"data": []})
KEPT = "a text that stays"
KEY, ADMIN = "a-clients", "an-operators"
CODE = "```python\nprint(1)\n```"
"""A draft whose block is lost in refinement, since words are put before its fence."""


def reply(turns: Sequence[Turn]) -> Said:
    """Keeps what is to be kept, fails to refine what is to fail."""
    if turns[0].text == "fail" and len(turns) > 1:
        return EngineFailed("told to")
    return turns[-2].text if len(turns) >= 3 and turns[-2].text == KEPT else improve(turns)


@contextmanager
def busy_server() -> Iterator[str]:
    """Models `plain`, `cloud` (a Leader that answers), `broken` (one that answered once) and `shaded` (in shadow mode);
    yields the base URL."""
    with upstream(LISTED, GOOD) as cloud, upstream(LISTED, error(500)) as broken, TemporaryDirectory() as folder:
        common = {"model": "big", "max_retries": 0, "breaker_failures": 2}
        settings: dict[str, Any] = {
            "upstreams": {
                "cloud": {**common, "base_url": cloud.url},
                "broken": {**common, "base_url": broken.url, "breaker_cooldown_s": 600},
            },
            **{"api_keys": f"web={KEY}", "admin_key": ADMIN, "metrics_by_key": "on"},
            "judges": {"house": {"upstream": "cloud"}},
            "verdicts_file": f"{folder}/verdicts.db",
            "models": {
                "plain": {"rounds": 2, "judge": "house"},
                "cloud": {"leader": "cloud"},
                "broken": {"leader": "broken"},
                "shaded": {"shadow": {"judge": "house", "share": 1}},
            },
        }
        with running(create_app(Settings(**settings), FakeEngine(reply).open)) as url:
            yield url


def one_of_each(url: str) -> None:
    """Send each kind of request once, and look whether it was answered as it should be."""
    with httpx2.Client(base_url=url, timeout=30, headers={"Authorization": f"Bearer {KEY}"}) as http:

        def post(path: str, status: int = 200, **body: Any) -> None:
            answer = http.post(f"/v1/{path}", json={"model": "plain", **body})
            assert answer.status_code == status, (body, answer.text)

        chat: dict[str, Any] = {"messages": [{"role": "user", "content": "what is it"}]}
        post("refine", prompt="what is it", rounds=3)
        post("refine", prompt="what is it", draft=KEPT, stop_when_unchanged=False)
        post("refine", prompt="what is it", draft=CODE)
        post("refine", prompt="what is it", select="judge")
        post("refine", prompt="fail")
        post("refine", 500, prompt="fail", on_error="fail")
        post("refine", prompt="what is it", stream=True)
        post("chat/completions", **chat)
        post("chat/completions", **chat, stream=True)
        post("chat/completions", **chat, tools=[{"type": "function", "function": {"name": "look_up"}}])
        post("chat/completions", **chat, model="cloud")
        for _ in range(3):  # two failed attempts, and one that the breaker turns away
            http.post("/v1/chat/completions", json={**chat, "model": "broken"})
        post("completions", prompt="what is it", max_tokens=2)
        post("responses", input="what is it")
        post("refine", prompt="what is it", model="shaded")
        post("chat/completions", 404, **chat, model="nobody")
        post("refine", 400, prompt="what is it", rounds=-1)
