"""Settings of upstreams: where the key may come from, and that it shows up nowhere."""

from pathlib import Path

import pytest

from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings

SECRET = "sk-SECRET"


def in_file(tmp_path: Path, content: str) -> list[str]:
    file = tmp_path / "settings.yaml"
    file.write_text(content)
    return ["--config", str(file)]


def cloud(more: str = "") -> str:
    return f"upstreams: {{cloud: {{base_url: 'https://example.com/v1', model: big{more}}}}}"


def key_of(settings: Settings) -> str | None:
    key = settings.upstreams["cloud"].key()
    return None if key is None else key.get_secret_value()


def refusal(argv: list[str]) -> str:
    with pytest.raises(SettingsError) as refused:
        load_settings(argv)
    assert "SECRET" not in str(refused.value)
    assert refused.value.__cause__ is None
    return str(refused.value)


@pytest.mark.parametrize("key", [SECRET, "12345", "007", "null", "true"])
def test_the_key_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    monkeypatch.setenv("SLHF_UPSTREAMS__CLOUD__API_KEY", key)
    assert key_of(load_settings(in_file(tmp_path, cloud()))) == key


def test_the_key_may_come_from_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "key").write_text(f"{SECRET}\n")
    settings = load_settings(in_file(tmp_path, cloud(f", api_key_file: {tmp_path}/key")))
    assert key_of(settings) == SECRET
    assert SECRET not in str(settings) + str(settings.redacted())


def test_a_file_of_a_key_may_lie_in_the_users_home_and_come_from_windows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "key").write_bytes(b"\xef\xbb\xbf" + f"{SECRET}\r\n".encode())
    assert key_of(load_settings(in_file(tmp_path, cloud(", api_key_file: ~/key")))) == SECRET


@pytest.mark.parametrize("quote", ['"', "'"])
def test_a_key_whose_quotes_an_env_file_has_kept_refuses_to_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quote: str
) -> None:
    monkeypatch.setenv("SLHF_UPSTREAMS__CLOUD__API_KEY", f"{quote}{SECRET}{quote}")
    told = refusal(in_file(tmp_path, cloud()))
    assert "api_key stands in quotes" in told


def test_an_upstream_needs_no_key(tmp_path: Path) -> None:
    assert key_of(load_settings(in_file(tmp_path, cloud()))) is None


def test_the_key_is_in_no_text_of_the_settings(tmp_path: Path) -> None:
    settings = load_settings(in_file(tmp_path, cloud(f", api_key: {SECRET}")))
    assert SECRET not in f"{settings} {settings!r} {settings.redacted()}"
    assert settings.redacted()["upstreams"]["cloud"]["base_url"] == "https://example.com/v1"


@pytest.mark.parametrize("content", [None, "", " \n", "a b", "é", "a\nb"])
def test_a_file_without_a_key_refuses_to_start(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "key").write_text(content)
    told = refusal(in_file(tmp_path, cloud(f", api_key_file: {tmp_path}/key")))
    assert told.startswith("upstreams.cloud: ")
    assert f"api_key_file '{tmp_path}/key'" in told


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (cloud(f", api_key: {SECRET}, api_key_file: /nowhere"), "upstreams.cloud: "),
        (cloud(f", api_key: {SECRET}, timeout_s: 0"), "upstreams.cloud.timeout_s: "),
        (cloud(f", api_key: [{SECRET}]"), "upstreams.cloud.api_key: "),
        (cloud(f", api_key: {SECRET} two"), "upstreams.cloud: "),
        (cloud(f", apikey: {SECRET}"), "upstreams.cloud.apikey: "),
        (cloud(f", ky: {{a: {SECRET}}}"), "upstreams.cloud.ky: "),
        (f"upstreams: {{cloud: {{model: big, api_key: {SECRET}}}}}", "upstreams.cloud.base_url: "),
        (f"upstreams: {{cloud: {SECRET}}}", "upstreams.cloud: "),
        (f"upstreams: {SECRET}", "upstreams: "),
        (f"upstream: {{cloud: {{api_key: {SECRET}}}}}", "upstream: "),
        (f"models: {{mine: {{api_key: {SECRET}}}}}", "models.mine.api_key: "),
        (f"upstreams:\n  cloud:\n    api_key: '{SECRET}\n", "config "),
        (f"upstreams:\n  cloud: {{api_key: *{SECRET}}}\n", "config "),
        (f"upstreams: {{cloud: {{base_url: 'http://me:{SECRET}@x/v1', model: big}}}}", "upstreams.cloud.base_url: "),
        (f"upstreams: {{cloud: {{base_url: 'http://x/v1?key={SECRET}', model: big}}}}", "upstreams.cloud.base_url: "),
        ("upstreams: {cloud: {base_url: 'ftp://x/v1', model: big}}", "upstreams.cloud.base_url: "),
        ("upstreams: {cloud: {base_url: 'x/v1', model: big}}", "upstreams.cloud.base_url: "),
        ("upstreams: {cloud: {base_url: 'http://x/v1', model: ''}}", "upstreams.cloud.model: "),
        ("upstreams: {Cloud: {base_url: 'http://x/v1', model: big}}", "upstreams.Cloud"),
        ("upstreams: {none: {base_url: 'http://x/v1', model: big}}", "upstreams.none"),
        ("upstreams: {follower-engine: {base_url: 'http://x/v1', model: big}}", "upstreams.follower-engine"),
        (cloud(f", extra_body: {{model: {SECRET}}}"), "upstreams.cloud.extra_body: "),
        (cloud(f", extra_body: {{messages: [], a: {SECRET}}}"), "upstreams.cloud.extra_body: "),
        (cloud(", extra_body: {stream: false}"), "upstreams.cloud.extra_body: "),
        (cloud(f", extra_body: {SECRET}"), "upstreams.cloud.extra_body: "),
        (cloud(", extra_body: {a: .nan}"), "upstreams.cloud.extra_body.a"),
        (cloud(f", extra_headers: {{Authorization: {SECRET}}}"), "upstreams.cloud.extra_headers: "),
        (cloud(f", extra_headers: {{content-length: {SECRET}}}"), "upstreams.cloud.extra_headers: "),
        (cloud(f", extra_headers: {{'X Title': {SECRET}}}"), "upstreams.cloud.extra_headers: "),
        (cloud(f', extra_headers: {{x: "{SECRET}\\r\\ny: z"}}'), "upstreams.cloud.extra_headers: "),
        (cloud(f", extra_headers: {{x: é{SECRET}}}"), "upstreams.cloud.extra_headers: "),
        (cloud(", extra_headers: {x: ''}"), "upstreams.cloud.extra_headers: "),
        (cloud(", omit: [model]"), "upstreams.cloud.omit: "),
        (cloud(", omit: [messages, seed]"), "upstreams.cloud.omit: "),
        (cloud(", omit: [stream]"), "upstreams.cloud.omit: "),
        (cloud(", omit: ['']"), "upstreams.cloud.omit: "),
        (cloud(", omit: seed"), "upstreams.cloud.omit: "),
        (f"{cloud()}\nmodels: {{mine: {{leader: cluod}}}}", "models.mine.leader: 'cluod' is none of "),
        (f"{cloud()}\nmodels: {{mine: {{leader: cloud, images: some}}}}", "models.mine.images: "),
    ],
)
def test_a_bad_setting_is_named_and_no_secret_shown(tmp_path: Path, content: str, named: str) -> None:
    assert refusal(in_file(tmp_path, content)).startswith(named)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeout_s", "-1"),
        ("max_retries", "11"),
        ("max_concurrent", "0"),
        ("breaker_failures", "0"),
        ("breaker_cooldown_s", "0"),
        ("max_tokens_parameter", "tokens"),
        ("max_output_tokens", "0"),
    ],
)
def test_a_bad_value_that_is_no_secret_is_shown(tmp_path: Path, key: str, value: str) -> None:
    told = refusal(in_file(tmp_path, cloud(f", api_key: {SECRET}, {key}: {value}")))
    assert told.startswith(f"upstreams.cloud.{key}: ")
    assert value in told


@pytest.mark.parametrize("variable", ["SLHF_UPSTREAMS", "SLHF_UPSTREAMS__CLOUD", "SLHF_UPSTREAMS__CLOUD__KEY"])
@pytest.mark.parametrize("value", [SECRET, f'{{"cloud": {{"api_key": "{SECRET}"', f'{{"api_key": "{SECRET}"}}'])
def test_a_bad_variable_is_named_and_no_secret_shown(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings([])
    assert "upstreams" in str(refused.value)
    assert "SECRET" not in str(refused.value)


def test_what_every_request_holds_besides_may_be_a_secret(tmp_path: Path) -> None:
    extra = (
        f"extra_body: {{api_key: {SECRET}, user: ada, n: {{token: {SECRET}}}}}, extra_headers: {{api-key: {SECRET}}}"
    )
    settings = load_settings(in_file(tmp_path, cloud(f", {extra}, omit: [seed, stream_options]")))
    upstream = settings.upstreams["cloud"]
    assert upstream.extra_body["api_key"] == SECRET
    assert upstream.extra_headers["api-key"].get_secret_value() == SECRET
    assert upstream.omit == ("seed", "stream_options")
    shown = settings.redacted()["upstreams"]["cloud"]
    assert SECRET not in str(shown)
    assert shown["extra_body"]["user"] == "ada"


def test_it_may_come_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_UPSTREAMS__CLOUD__EXTRA_BODY", '{"chat_template_kwargs": {"enable_thinking": false}}')
    monkeypatch.setenv("SLHF_UPSTREAMS__CLOUD__EXTRA_HEADERS__API-KEY", SECRET)
    monkeypatch.setenv("SLHF_UPSTREAMS__CLOUD__OMIT", '["seed"]')
    upstream = load_settings(in_file(tmp_path, cloud())).upstreams["cloud"]
    assert upstream.extra_body == {"chat_template_kwargs": {"enable_thinking": False}}
    assert upstream.extra_headers["api-key"].get_secret_value() == SECRET
    assert upstream.omit == ("seed",)


def test_an_empty_key_is_a_mistake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_UPSTREAMS__CLOUD__API_KEY", "")
    assert "api_key is empty" in refusal(in_file(tmp_path, cloud()))


def test_a_model_may_be_led_by_an_upstream(tmp_path: Path) -> None:
    settings = load_settings(in_file(tmp_path, f"{cloud()}\nmodels: {{mine: {{leader: cloud, images: pass_through}}}}"))
    assert (settings.models["mine"].leader, settings.models["mine"].images) == ("cloud", "pass_through")
