"""Tokens per day: what a key has really spent is booked on it, however its request ended."""

import hashlib
import json
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from fastapi import FastAPI

from slhf_server.access.keys import Key, Keyring
from slhf_server.access.spending import Spending
from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.limits import ServerLimits
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.server.conftest import eventually

PROMPT = "what is it"
MIDNIGHT = datetime(2026, 11, 30, tzinfo=UTC)


class Wall:
    def __init__(self, now: datetime) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


def keys_file(folder: Path, **entries: dict[str, Any]) -> Path:
    file = folder / "keys.yaml"
    listed = [
        {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest()} | more for name, more in entries.items()
    ]
    file.write_text(yaml.safe_dump(listed), encoding="utf-8")
    return file


@contextmanager
def served(engine: FakeEngine, **settings: Any) -> Iterator[tuple[str, FastAPI]]:
    app = create_app(Settings(**settings), engine.open)
    with running(app) as url:
        yield url, app


def key_of(app: FastAPI, name: str) -> Key:
    keyring: Keyring = app.state.keyring
    return keyring.key_of(f"Bearer {name}".encode())


def refine(url: str, key: str, path: str = "/v1/refine", **body: Any) -> httpx2.Response:
    return httpx2.post(
        url + path, json={"prompt": PROMPT, "rounds": 2} | body, headers={"Authorization": f"Bearer {key}"}
    )


def test_the_days_tokens_begin_anew_at_midnight_of_utc() -> None:
    wall = Wall(MIDNIGHT - timedelta(hours=1, microseconds=-1))
    spending = Spending(wall)
    spending.add(20, 3)
    spending.add(4, 0)
    assert (spending.today, spending.seconds_left) == (27, 3600)
    wall.now = MIDNIGHT
    assert (spending.today, spending.seconds_left) == (0, 86_400)
    spending.add(1, 1)
    assert (spending.today, spending.requests, spending.prompt_tokens, spending.completion_tokens) == (2, 3, 25, 4)
    wall.now = MIDNIGHT + timedelta(days=1) - timedelta(microseconds=1)
    assert spending.seconds_left == 1


def test_a_budget_is_the_keys_own_else_the_servers_and_null_lifts_it(tmp_path: Path) -> None:
    file = keys_file(tmp_path, own={"tokens_per_day": 5}, default={}, lifted={"tokens_per_day": None})
    ring = Keyring(Settings(api_keys_file=file, limits=ServerLimits(key_tokens_per_day=9)))
    assert [key.entry.tokens_per_day for key in ring] == [5, 9, None]


def test_a_key_whose_tokens_are_spent_is_refused_until_midnight_and_no_other_key_is(tmp_path: Path) -> None:
    """What the answers' usage says is what is booked; the request that crosses the line is still answered."""
    file = keys_file(tmp_path, small={"tokens_per_day": 60}, other={})
    with served(FakeEngine(), api_keys_file=file) as (url, app):
        wall = Wall(MIDNIGHT - timedelta(seconds=90))
        key = key_of(app, "small")
        key.spending = Spending(wall)
        spent = 0
        while spent < 60:
            answer = refine(url, "small")
            assert answer.status_code == 200, answer.text
            spent += answer.json()["usage"]["total_tokens"]
            assert eventually(lambda: key.spending.today == spent)  # noqa: B023  awaited in this turn
        for path, body in (
            ("/v1/refine", {"prompt": PROMPT}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": PROMPT}], "stream": True}),
            ("/v1/completions", {"prompt": PROMPT}),
            ("/v1/responses", {"input": PROMPT}),
            ("/v1/messages", {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": 5}),
        ):
            refused = httpx2.post(url + path, json=body, headers={"x-api-key": "small"})
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "90")
            message = refused.json()["error"]["message"]
            assert message == f"this API key may use 60 tokens per day (UTC), and has used {spent}"
        assert httpx2.get(f"{url}/v1/models", headers={"x-api-key": "small"}).status_code == 200
        assert refine(url, "other").status_code == 200
        wall.now = MIDNIGHT
        assert refine(url, "small").status_code == 200


@pytest.mark.parametrize("stream", [True, False])
def test_what_a_client_leaves_behind_is_booked_up_to_the_token(tmp_path: Path, stream: bool) -> None:
    """The prompt's three words of the round that runs, and the words that it has written by then."""
    engine = FakeEngine(lambda turns: "word " * 500, token_seconds=0.01)
    file = keys_file(tmp_path, mine={"tokens_per_day": 10_000})
    with served(engine, api_keys_file=file) as (url, app), ExitStack() as stack:
        body = {"prompt": PROMPT, "rounds": 1, "stream": stream}
        client = stack.enter_context(httpx2.Client(headers={"Authorization": "Bearer mine"}, timeout=0.5))
        if stream:
            with client.stream("POST", f"{url}/v1/refine", json=body) as response:
                lines = response.iter_lines()
                while "round.delta" not in next(lines):
                    pass
        else:
            with pytest.raises(httpx2.ReadTimeout):
                client.post(f"{url}/v1/refine", json=body)
        spending = key_of(app, "mine").spending
        assert eventually(lambda: spending.requests == 1)
        assert spending.prompt_tokens == 3
        assert 1 <= spending.completion_tokens < 500


def test_the_log_tells_what_a_request_has_used_that_was_answered_by_an_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "slhf_server.access")
    engine = FakeEngine(token_seconds=0.01)
    with served(engine, api_keys_file=keys_file(tmp_path, mine={})) as (url, _):
        late = refine(url, "mine", draft="a b c d", rounds=1, on_error="fail", timeout_ms=30)
        assert late.status_code == 200
        assert eventually(lambda: bool(caplog.records))
    line = vars(caplog.records[-1])
    assert (line["key"], line["stop_reason"]) == ("mine", "deadline")
    assert line["prompt_tokens"] > 0


def metrics(url: str, key: str | None) -> httpx2.Response:
    return httpx2.get(f"{url}/metrics", headers={} if key is None else {"Authorization": f"Bearer {key}"})


def test_usage_by_key_is_in_the_metrics_where_it_is_asked_for_and_then_these_need_the_operators_key(
    tmp_path: Path,
) -> None:
    file = keys_file(tmp_path, web={}, batch={})
    with served(FakeEngine(), api_keys_file=file, admin_key="secret", metrics_by_key="on") as (url, _):
        usage = refine(url, "web").json()["usage"]
        assert eventually(lambda: 'slhf_key_requests_total{key="web"} 1.0' in metrics(url, "secret").text)
        for wrong in (None, "web", "nobodys"):
            assert metrics(url, wrong).status_code == 401
        lines = metrics(url, "secret").text.splitlines()
        assert httpx2.get(f"{url}/v1/models", headers={"x-api-key": "secret"}).status_code == 401
        for path in ("/health", "/ready", "/version"):
            assert httpx2.get(url + path).status_code == 200
    assert 'slhf_key_requests_total{key="web"} 1.0' in lines
    assert 'slhf_key_requests_total{key="batch"} 0.0' in lines
    assert f'slhf_key_prompt_tokens_total{{key="web"}} {usage["prompt_tokens"]:.1f}' in lines
    assert f'slhf_key_generation_tokens_total{{key="web"}} {usage["completion_tokens"]:.1f}' in lines


def test_without_it_metrics_need_no_key_and_name_none(tmp_path: Path) -> None:
    file = keys_file(tmp_path, telltale={})
    with served(FakeEngine(), api_keys_file=file, admin_key="secret") as (url, _):
        refine(url, "telltale")
        page = metrics(url, None)
    assert page.status_code == 200
    assert "telltale" not in page.text
    assert json.dumps(Settings(admin_key="hidden").redacted()).count("hidden") == 0
