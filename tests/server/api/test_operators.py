"""The operators' port, on the real server with a fake engine: a port and a key of its own."""

import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import pytest

from slhf_server.access.keys import Keyring
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.server.access.test_keys import server_process, until
from tests.server.conftest import Run, eventually

ADMIN = {"Authorization": "Bearer an-operators"}


class Served(NamedTuple):
    clients: str
    operators: str


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    key = tmp_path_factory.mktemp("keys") / "admin"
    key.write_text("an-operators\n", encoding="utf-8")
    with server_process(
        "--api-keys", "web=key-web,batch=key-batch", "--admin-port", "0", "--admin-key-file", str(key)
    ) as (process, log):
        clients = until(log, "listening on").removeprefix("listening on ")
        operators = until(log, "operators: listening on").removeprefix("operators: listening on ")
        until(log, "ready after")
        yield Served(clients, operators)
        assert process.poll() is None


def test_a_client_cannot_have_the_operators_key() -> None:
    with pytest.raises(SettingsError, match="API keys: 'web' has the operators' key"):
        Keyring(Settings(admin_key="one-for-all", api_keys="batch=other,web=one-for-all"))


def test_it_lies_on_loopback_and_asks_everybody_for_its_own_key(served: Served) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+", served.operators)
    for path in ("/usage", "/health", "/metrics", "/docs", "/nothing"):
        for headers in ({}, {"Authorization": "Bearer key-web"}):
            answer = httpx2.get(served.operators + path, headers=headers)
            assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_api_key")
            assert answer.headers["x-request-id"]
    assert httpx2.get(f"{served.operators}/nothing", headers=ADMIN).status_code == 404
    assert httpx2.get(f"{served.clients}/usage", headers={"x-api-key": "key-web"}).status_code == 404
    assert httpx2.get(f"{served.clients}/v1/models", headers=ADMIN).status_code == 401


def test_it_tells_what_each_key_has_used(served: Served) -> None:
    answer = httpx2.post(f"{served.clients}/v1/refine", json={"prompt": "x"}, headers={"x-api-key": "key-batch"})
    used = answer.json()["usage"]

    def asked() -> dict[str, Any]:
        report: dict[str, Any] = httpx2.get(f"{served.operators}/usage", headers={"x-api-key": "an-operators"}).json()
        return report

    assert eventually(lambda: any(key["requests"] for key in asked()["keys"]))  # it is booked once it is sent
    report = asked()
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", report["day"])
    nothing = {"requests": 0, "prompt_tokens": 0, "completion_tokens": 0, "tokens_today": 0, "tokens_per_day": None}
    of_batch = {name: used[name] for name in ("prompt_tokens", "completion_tokens")}
    by_name = {key.pop("name"): key for key in report["keys"]}
    assert by_name["batch"] == nothing | of_batch | {"requests": 1, "tokens_today": used["total_tokens"]}
    assert by_name["web"]["tokens_today"] == 0


@pytest.mark.parametrize("setting", [{"admin_port": 0}, {"metrics_by_key": "on"}])
def test_without_a_key_it_does_not_start(setting: dict[str, object]) -> None:
    with pytest.raises(SettingsError, match=f"{next(iter(setting))}: it needs a key of its own: set admin_key"):
        Settings(**setting)  # type: ignore[arg-type]


def test_a_key_that_is_none_is_refused_without_being_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for key, problem in (("a secret", "admin_key is empty, or no key"), ("", "admin_key is empty: unset")):
        monkeypatch.setenv("SLHF_ADMIN_KEY", key)
        with pytest.raises(SettingsError, match=problem) as refused:
            load_settings(["--admin-port", "0"])
        assert "secret" not in str(refused.value)
    monkeypatch.setenv("SLHF_ADMIN_KEY", "secret")
    with pytest.raises(SettingsError, match="admin_key and admin_key_file are both set"):
        load_settings(["--admin-key-file", str(tmp_path)])
    monkeypatch.delenv("SLHF_ADMIN_KEY")
    with pytest.raises(SettingsError, match="admin_key_file .*none'?: No such file"):
        load_settings(["--admin-key-file", str(tmp_path / "none")])


def test_a_port_that_is_taken_ends_the_start_and_is_named(slhf_server: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        ended = slhf_server("--port", "0", "--admin-port", port, SLHF_ADMIN_KEY="secret")
    assert ended.returncode == 1
    assert f"admin_host '127.0.0.1', admin_port {port}: cannot bind" in ended.stderr.splitlines()[-1]
