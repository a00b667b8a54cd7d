"""API keys: where they come from, what is refused without showing a secret, rates, places and rotation."""

import contextlib
import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
import yaml
from pydantic import SecretStr

from slhf_server.access.keys import Key, KeyEntry, Keyring
from slhf_server.cli import reload_keys
from slhf_server.errors import InvalidAPIKey, RateLimited
from slhf_server.settings.limits import ServerLimits
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.server.conftest import Run

SECRET = "a-secret-that-nobody-may-see"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def write(path: Path, *entries: object) -> Path:
    path.write_text(yaml.safe_dump(list(entries)))
    return path


def ring(path: Path, clock: Clock | None = None, **limits: int) -> Keyring:
    return Keyring(Settings(api_keys_file=path, limits=ServerLimits(**limits)), clock or Clock())


def bearer(key: str) -> bytes:
    return f"Bearer {key}".encode()


def test_keys_of_the_environment_and_of_the_file_hold_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLHF_API_KEYS", f"web={SECRET}, batch=k=2")
    monkeypatch.setenv("SLHF_API_KEYS_FILE", str(write(tmp_path / "keys", {"name": "filed", "sha256": digest("k3")})))
    keyring = Keyring(load_settings([]))
    names = {key: keyring.key_of(bearer(key)).entry.name for key in (SECRET, "k=2", "k3")}
    assert names == {SECRET: "web", "k=2": "batch", "k3": "filed"}


def test_the_settings_in_the_log_hide_the_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_API_KEYS", f"web={SECRET}")
    settings = load_settings([])
    assert SECRET not in json.dumps(settings.redacted())
    assert SECRET not in repr(settings)


@pytest.mark.parametrize(
    "authorization",
    [
        b"",
        b"Bearer",
        b"Bearer ",
        b"Basic key",
        b"key",
        b"Bearer other",
        b"Bearer \xff\xfe",
        b"Bearer Key",
        b"Bearerkey",
    ],
)
def test_whatever_holds_no_key_of_the_ring_is_refused(tmp_path: Path, authorization: bytes) -> None:
    keyring = ring(write(tmp_path / "keys", {"name": "a", "sha256": digest("key")}))
    with pytest.raises(InvalidAPIKey):
        keyring.key_of(authorization)
    assert keyring.key_of(b"bearer  key").entry.name == "a"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (f"- {{name: a, key: {SECRET}}}", "entry 1: "),
        (f"- {{name: a, sha256: {SECRET}}}", "entry 1: sha256: "),
        (f"- {SECRET}", "entry 1"),
        (f"- {{name: a, {SECRET}: 1}}", "entry 1: "),
        (f"- {{name: a b {SECRET}, sha256: {digest('k')}}}", "entry 1: name: "),
        (f"- {{name: ok, sha256: '{digest('k')}'}}\n- {{name: {SECRET}}}", "entry 2: sha256: Field required"),
        (f"- {{name: a, sha256: '{digest('k')}', concurrency: 0}}", "entry 1: concurrency: "),
        (f"- {{name: a, sha256: '{digest('k')}', requests_per_minute: {SECRET}}}", "entry 1: requests_per_minute: "),
        (f"- {{name: a, sha256: '{digest('k')}', burst: 3}}", "entry 1: burst: unknown key"),
        (f"a: {SECRET}", "must be a list"),
        (SECRET, "must be a list"),
        ("", "must be a list"),
        ("[]", "must be a list"),
        (f"- name: a\n  sha256: *{SECRET}", "not YAML"),
        (f"- [{SECRET}\n- {{", "not YAML at line "),
    ],
)
def test_a_bad_file_is_named_with_entry_and_key_and_without_the_value(
    tmp_path: Path, content: str, problem: str
) -> None:
    file = tmp_path / "keys.yaml"
    file.write_text(content)
    with pytest.raises(SettingsError) as refused:
        ring(file)
    assert str(refused.value).startswith(f"api_keys_file {file}: {problem}")
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None  # nor in a traceback


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="api_keys_file .*/none: No such file"):
        ring(tmp_path / "none")


@pytest.mark.parametrize(
    "value",
    [
        SECRET,
        f"a={SECRET},b",
        f"={SECRET}",
        f"a b={SECRET}",
        "a=",
        "a= ",
        f"a={SECRET}\nb=x",
        f"a={SECRET} x",
        f"a=\u201c{SECRET}\u201d",
    ],
)
def test_a_bad_variable_is_named_without_its_value(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SLHF_API_KEYS", value)
    with pytest.raises(SettingsError, match="^api_keys: entry [12]") as refused:
        Keyring(load_settings([]))
    assert SECRET not in str(refused.value)


def test_a_variable_of_a_wrong_type_in_the_settings_file_shows_no_value(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(f"api_keys: {{web: {SECRET}}}")
    with pytest.raises(SettingsError, match="^api_keys: ") as refused:
        load_settings(["--config", str(file)])
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "second", [{"name": "a", "sha256": digest("other")}, {"name": "b", "sha256": digest("key")}], ids=["name", "key"]
)
def test_a_name_or_a_key_that_is_there_twice_is_refused(tmp_path: Path, second: dict[str, str]) -> None:
    with pytest.raises(SettingsError, match="more than once"):
        ring(write(tmp_path / "keys", {"name": "a", "sha256": digest("key")}, second))
    with pytest.raises(SettingsError, match="more than once"):
        Keyring(Settings(api_keys=SecretStr("a=key"), api_keys_file=write(tmp_path / "keys", second)))


def test_a_limit_is_the_keys_own_else_the_servers_and_null_lifts_it(tmp_path: Path) -> None:
    entries: list[dict[str, object]] = [{"name": name, "sha256": digest(name)} for name in ("own", "default", "lifted")]
    entries[0] |= {"requests_per_minute": 5, "concurrency": 2}
    entries[2] |= {"requests_per_minute": None, "concurrency": None}
    keyring = ring(write(tmp_path / "keys", *entries), key_requests_per_minute=60, key_concurrency=9)
    found = [keyring.key_of(bearer(name)).entry for name in ("own", "default", "lifted")]
    assert [(key.requests_per_minute, key.concurrency) for key in found] == [(5, 2), (60, 9), (None, None)]


def test_a_rate_allows_a_minutes_worth_at_once_and_fills_evenly(tmp_path: Path) -> None:
    """30 per minute: a token each 2 s. One is taken after 3 s of filling, so half of one is left and 1 s is to wait."""
    clock = Clock()
    key = ring(write(tmp_path / "keys", {"name": "a", "sha256": digest("k"), "requests_per_minute": 30}), clock).key_of(
        bearer("k")
    )
    for _ in range(30):
        with key.place():
            pass
    with pytest.raises(RateLimited, match="30 requests per minute") as refused, key.place():
        pass
    assert refused.value.retry_after == 2
    clock.now += 3
    with key.place():
        pass
    with pytest.raises(RateLimited) as refused, key.place():
        pass
    assert refused.value.retry_after == 1
    clock.now += 3600
    assert taken(key) == 30  # not an hour's worth


def taken(key: Key) -> int:
    """How many requests a key may make now."""
    count = 0
    with contextlib.suppress(RateLimited):
        while count < 1000:
            with key.place():
                count += 1
    return count


def test_places_are_counted_and_given_back_and_a_refused_request_takes_neither(tmp_path: Path) -> None:
    entry = {"name": "a", "sha256": digest("k"), "concurrency": 1, "requests_per_minute": 2}
    key = ring(write(tmp_path / "keys", entry)).key_of(bearer("k"))
    with key.place():
        for _ in range(5):
            with pytest.raises(RateLimited, match="1 requests at once") as refused, key.place():
                pass
            assert (refused.value.retry_after, key.running) == (1, 1)
    assert key.running == 0
    with contextlib.suppress(ZeroDivisionError), key.place():
        raise ZeroDivisionError
    assert key.running == 0
    with pytest.raises(RateLimited, match="per minute"), key.place():
        pass


def test_a_reload_takes_new_keys_and_limits_and_keeps_counters_and_running_requests(tmp_path: Path) -> None:
    file = write(
        tmp_path / "keys",
        {"name": "stays", "sha256": digest("one"), "requests_per_minute": 2},
        {"name": "goes", "sha256": digest("gone")},
    )
    keyring = ring(file)
    with keyring.key_of(bearer("one")).place():
        write(
            file,
            {"name": "stays", "sha256": digest("two"), "requests_per_minute": 2},
            {"name": "new", "sha256": digest("new")},
        )
        keyring.reload()
        assert keyring.key_of(bearer("two")).running == 1
        for old in ("one", "gone"):
            with pytest.raises(InvalidAPIKey):
                keyring.key_of(bearer(old))
    key = keyring.key_of(bearer("two"))
    assert (key.running, taken(key), len(keyring)) == (0, 1, 2)


def test_a_broken_file_at_reload_keeps_the_old_keys_and_is_logged(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = write(tmp_path / "keys", {"name": "a", "sha256": digest("k")})
    keyring = ring(file)
    file.write_text(f"- {{name: b, sha256: {SECRET}}}")
    reload_keys(keyring)
    assert keyring.key_of(bearer("k")).entry.name == "a"
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert "entry 1: sha256" in record.message
    assert SECRET not in caplog.text


def test_the_command_makes_a_key_and_its_entry(python: Run) -> None:
    made = [python(COMMAND, "web").stdout for _ in range(2)]
    key = made[0].splitlines()[0].removeprefix("key: ")
    assert key.startswith("slhf-")
    assert len(key) == 48
    (entry,) = [KeyEntry(**one) for one in yaml.safe_load(made[0].split("\n\n", 1)[1])]
    assert (entry.name, entry.sha256) == ("web", digest(key))
    assert made[0] != made[1]


@pytest.mark.parametrize("arguments", [(), ("a", "b"), ("--name",), ("no spaces",)])
def test_the_command_refuses_what_is_no_name(python: Run, arguments: tuple[str, ...]) -> None:
    ended = python(COMMAND, *arguments)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_the_command_says_how_it_is_used(python: Run, flag: str) -> None:
    ended = python(COMMAND, flag)
    assert (ended.returncode, ended.stdout) == (0, "usage: slhf-server-key NAME\n")


COMMAND = "from slhf_server.access.keys import main; main()"
SERVER = """
import asyncio, sys
from slhf_server.observability import logs
from slhf_server.cli import bind, serve
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.reading import load_settings
settings = load_settings(sys.argv[1:])
logs.configure(settings.log_level, settings.log_format)
asyncio.run(serve(settings, bind(settings), FakeEngine().open))
"""


@contextlib.contextmanager
def server_process(*flags: str) -> Iterator[tuple[subprocess.Popen[str], Iterator[dict[str, object]]]]:
    """`slhf-server` but for its engine, which is a fake, in a process of its own; and its log, line by line."""
    command = [sys.executable, "-c", SERVER, "--port", "0", *flags]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=dict(os.environ))
    watchdog = threading.Timer(60, process.kill)
    watchdog.start()
    assert process.stderr is not None
    try:
        with process.stderr:
            yield process, (json.loads(line) for line in process.stderr)
            process.send_signal(signal.SIGTERM)
            for _ in process.stderr:
                pass
    finally:
        watchdog.cancel()
        process.kill()
        process.wait(10)


def until(log: Iterator[dict[str, object]], words: str) -> str:
    """The next message with these words."""
    return next(str(line["message"]) for line in log if words in str(line["message"]))


def test_sighup_reads_the_file_again_in_the_running_server(tmp_path: Path) -> None:
    file = write(tmp_path / "keys", {"name": "a", "sha256": digest("old")})
    with server_process("--api-keys-file", str(file)) as (process, log):
        url = until(log, "listening on").removeprefix("listening on ")
        until(log, "ready after")

        def status(key: str) -> int:
            return httpx2.get(f"{url}/v1/models", headers={"Authorization": f"Bearer {key}"}).status_code

        assert (status("old"), status("new")) == (200, 401)
        file.write_text("broken: [")
        process.send_signal(signal.SIGHUP)
        until(log, "the API keys were not reloaded, the old ones stay: api_keys_file")
        assert (status("old"), status("new")) == (200, 401)
        write(file, {"name": "a", "sha256": digest("new")})
        process.send_signal(signal.SIGHUP)
        until(log, "1 API keys reloaded")
        assert (status("old"), status("new")) == (401, 200)
