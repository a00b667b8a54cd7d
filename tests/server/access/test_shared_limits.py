"""Limits that replicas share: two servers and a real Redis, which may also be away, or answer nothing."""

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from slhf_server.access.shared_limits import SharedLimits
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.server.access.test_budgets import keys_file, refine, served
from tests.server.conftest import Play, Run, eventually
from tests.server.models.upstream.faulty import free_port

PASSWORD = "nobody-may-see-it"


class Redis:
    """The server's process, which can be ended and started anew."""

    def __init__(self, program: str, folder: Path) -> None:
        self.port = free_port()
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"
        self._command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--requirepass", PASSWORD]
        self._command += ["--save", "", "--appendonly", "no", "--dir", str(folder)]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL)
        assert eventually(self._listens)

    def end(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(20)

    def _listens(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
            return True
        return False


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[Redis]:
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        pytest.skip("neither redis-server nor valkey-server is here: apt install redis-server")
    server = Redis(program, tmp_path)
    server.start()
    yield server
    server.end()


@contextlib.contextmanager
def replicas(file: Path, store: str) -> Iterator[list[str]]:
    """Two servers with these keys and this store."""
    settings: dict[str, Any] = {"api_keys_file": file, "limits": {"store": store}}
    with served(FakeEngine(), **settings) as (one, _), served(FakeEngine(), **settings) as (other, _):
        yield [one, other]


def statuses(urls: list[str], key: str) -> list[int]:
    return [httpx2.get(f"{url}/v1/models", headers={"x-api-key": key}).status_code for url in urls]


def store_errors(url: str) -> float:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return next(float(line.split()[1]) for line in lines if line.startswith("slhf_limits_store_errors_total"))


def test_a_rate_holds_for_all_replicas_together(redis: Redis, tmp_path: Path) -> None:
    file = keys_file(tmp_path, mine={"requests_per_minute": 3}, yours={"requests_per_minute": 3})
    with replicas(file, redis.url) as (one, other):
        assert statuses([one, other, one, other, one], "mine") == [200, 200, 200, 429, 429]
        refused = httpx2.get(f"{other}/v1/models", headers={"x-api-key": "mine"})
        assert refused.json()["error"]["message"] == "this API key may make 3 requests per minute"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert statuses([one, other], "yours") == [200, 200]
        assert store_errors(one) == store_errors(other) == 0


def test_the_days_tokens_are_those_of_all_replicas(redis: Redis, tmp_path: Path) -> None:
    file = keys_file(tmp_path, mine={"tokens_per_day": 40})
    with replicas(file, redis.url) as (one, other):
        spent = 0
        while spent < 40:
            answer = refine(one, "mine")
            assert answer.status_code == 200
            spent += answer.json()["usage"]["total_tokens"]
        assert eventually(lambda: refine(other, "mine").status_code == 429)
        assert f"has used {spent}" in refine(other, "mine").json()["error"]["message"]
        assert int(refine(other, "mine").headers["retry-after"]) <= 86_400


def test_while_the_store_is_away_each_replica_counts_by_itself_and_that_is_counted(
    redis: Redis, tmp_path: Path
) -> None:
    file = keys_file(tmp_path, mine={"requests_per_minute": 2, "tokens_per_day": 1000})
    with replicas(file, redis.url) as (one, other):
        assert refine(one, "mine").status_code == 200
        redis.end()
        found = [refine(url, "mine").status_code for url in (one, one, one, other, other, other)]
        assert found == [200, 200, 429, 200, 200, 429]
        assert store_errors(one) > 0


def test_a_store_that_comes_back_is_asked_again_after_a_while(redis: Redis, play: Play) -> None:
    async def scenario() -> None:
        now, failed = [0.0], []
        limits = SharedLimits(redis.url, lambda: failed.append(now[0]), lambda: now[0])
        assert await limits.take("mine", 1) == 0
        await limits.book("mine", "2026-11-29", 7)
        redis.end()
        assert await limits.take("mine", 1) is None
        assert await limits.tokens("mine", "2026-11-29") is None
        redis.start()
        now[0] = 4.9
        assert await limits.tokens("mine", "2026-11-29") is None
        now[0] = 5.1
        assert await limits.tokens("mine", "2026-11-29") == 0  # it has forgotten, and the key's own count has not
        assert len(failed) == 3
        await limits.book("mine", "2026-11-29", 7)
        await limits.book("mine", "2026-11-29", 5)
        assert [await limits.tokens("mine", day) for day in ("2026-11-29", "2026-11-30")] == [12, 0]
        await limits.close()

    play(scenario())


def test_a_store_that_never_answers_costs_a_request_half_a_second_and_the_next_ones_nothing(play: Play) -> None:
    """Its clock stands still, so that it stays alone."""

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            failed: list[None] = []
            url = f"redis://127.0.0.1:{silent.getsockname()[1]}"
            limits = SharedLimits(url, lambda: failed.append(None), lambda: 0.0)
            async with asyncio.timeout(15):
                assert [await limits.take("mine", 1) for _ in range(1000)] == [None] * 1000
            assert len(failed) == 1000
            await limits.close()

    play(scenario())


@pytest.mark.parametrize("address", ["localhost:6379", "http://redis:6379", "redis://", "memory://", ""])
def test_an_address_that_is_none_ends_the_start(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_LIMITS__STORE", address or " ")
    if not address:
        assert load_settings([]).limits.store is None
        return
    with pytest.raises(SettingsError, match=r"limits\.store: .*must be redis://HOST:PORT/NUMBER"):
        load_settings([])


def test_its_password_is_in_no_log_and_no_message(monkeypatch: pytest.MonkeyPatch) -> None:
    address = f"redis://me:{PASSWORD}@store:6379/0"
    assert PASSWORD not in json.dumps(Settings(limits={"store": address}).redacted())
    monkeypatch.setenv("SLHF_LIMITS__STORE", address.replace("redis", "http"))
    with pytest.raises(SettingsError) as refused:
        load_settings([])
    assert PASSWORD not in str(refused.value)


def test_without_the_extra_the_setting_says_what_is_missing(python: Run) -> None:
    program = """
import sys
sys.modules["limits"] = None
from slhf_server.access.keys import Keyring
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
Keyring(Settings())
try:
    Keyring(Settings(limits={"store": "redis://127.0.0.1"}))
except SettingsError as exc:
    print(exc)
"""
    assert "limits.store: it needs slhf-server[redis]" in python(program).stdout
