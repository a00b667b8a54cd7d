"""Each key has its own salt for the engine's prefix cache; tests/engine/test_isolation.py shows what that does."""

import hashlib
from pathlib import Path
from typing import Any

import httpx2
import pytest

from slhf_server.access.keys import Keyring
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.conftest import Serve
from tests.contract.test_upstream_leader import GOOD, asked, settings
from tests.server.models.upstream.faulty import upstream

KEYS = "a=key-a,b=key-b"
CHAT = [{"role": "user", "content": "what is it"}]
BODIES: dict[str, dict[str, Any]] = {
    "chat/completions": {"messages": CHAT, "n": 2},
    "completions": {"prompt": "what is it"},
    "responses": {"input": "what is it"},
    "refine": {"prompt": "what is it", "rounds": 2},
}


def salts(engine: FakeEngine, url: str, endpoint: str, key: str | None) -> set[str | None]:
    """Those that the engine got with one request's completions."""
    before = len(engine.leader.calls), len(engine.follower.calls)
    headers = {} if key is None else {"Authorization": f"Bearer {key}"}
    assert httpx2.post(f"{url}/v1/{endpoint}", json=BODIES[endpoint], headers=headers).status_code == 200
    calls = engine.leader.calls[before[0] :] + engine.follower.calls[before[1] :]
    assert len(calls) > 1
    return {sampling.cache_salt for _, sampling in calls}


@pytest.mark.parametrize("endpoint", BODIES)
def test_every_round_and_choice_of_a_key_has_its_salt_and_no_other_key_has_it(serve: Serve, endpoint: str) -> None:
    engine = FakeEngine()
    url = serve(engine, api_keys=KEYS)
    first, again, other = (salts(engine, url, endpoint, f"key-{name}") for name in "aab")
    assert first == again
    assert len(first) == len(other) == 1
    assert first.isdisjoint(other)
    assert None not in first | other


@pytest.mark.parametrize("options", [{"api_keys": KEYS, "cache_isolation": "none"}, {}])
def test_a_shared_cache_and_a_server_without_keys_have_none(serve: Serve, options: dict[str, Any]) -> None:
    engine = FakeEngine()
    url = serve(engine, **options)
    for endpoint in BODIES:
        assert salts(engine, url, endpoint, "key-a") == {None}


def keyring(**options: Any) -> Keyring:
    return Keyring(Settings(**({"api_keys": KEYS} | options)))


def test_a_salt_says_nothing_of_key_or_secret_and_is_new_with_each_start() -> None:
    one, two = keyring(), keyring()
    assert one.cache_salt("a") == one.cache_salt("a") != two.cache_salt("a")
    plain = [hashlib.sha256(text.encode()).hexdigest() for text in ("a", "key-a", "secret", "secreta", "asecret")]
    assert keyring(cache_salt_secret="secret").cache_salt("a") not in plain


def test_replicas_with_one_secret_agree_whatever_the_key_is() -> None:
    secret = "a secret of all replicas"
    one, two = keyring(cache_salt_secret=secret), keyring(cache_salt_secret=secret, api_keys="a=rotated")
    assert one.cache_salt("a") == two.cache_salt("a") != keyring(cache_salt_secret="another").cache_salt("a")


def test_a_rotated_key_keeps_its_cache(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"

    def write(key: str) -> None:
        file.write_text(f'- name: a\n  sha256: "{hashlib.sha256(key.encode()).hexdigest()}"\n', encoding="utf-8")

    write("old")
    ring = Keyring(Settings(api_keys_file=file))
    before = ring.cache_salt(ring.key_of(b"Bearer old").entry.name)
    write("new")
    ring.reload()
    assert ring.cache_salt(ring.key_of(b"Bearer new").entry.name) == before


def test_an_upstream_gets_no_salt(serve: Serve) -> None:
    with upstream(GOOD) as cloud:
        url = serve(FakeEngine(), api_keys=KEYS, **settings(cloud))
        headers = {"Authorization": "Bearer key-a"}
        answer = httpx2.post(f"{url}/v1/chat/completions", json={"messages": CHAT}, headers=headers)
        assert answer.status_code == 200, answer.text
        assert "salt" not in str(asked(cloud))


def test_the_secret_is_in_no_log_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "hidden" not in str(Settings(cache_salt_secret="hidden").redacted())
    monkeypatch.setenv("SLHF_CACHE_SALT_SECRET", "")
    with pytest.raises(SettingsError, match="cache_salt_secret"):
        load_settings([])
    monkeypatch.setenv("SLHF_CACHE_SALT_SECRET", "hidden")
    monkeypatch.setenv("SLHF_CACHE_ISOLATION", "some")
    with pytest.raises(SettingsError, match="cache_isolation.*some") as refusal:
        load_settings([])
    assert "hidden" not in str(refusal.value)
