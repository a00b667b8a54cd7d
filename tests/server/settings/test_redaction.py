"""What the log says of settings: everything but secrets, wherever an operator puts them."""

import json
from pathlib import Path

import pytest

from slhf_server.settings.endpoints import UpstreamSettings
from slhf_server.settings.server import Settings
from tests.server.conftest import Run

CANARY = "canary-that-nobody-may-see"
SETTINGS = f"""
api_keys: web={CANARY}
otlp_endpoint: http://me:{CANARY}@127.0.0.1:4318/v1/traces?token={CANARY}&x=1#{CANARY}
upstreams:
  cloud: {{base_url: 'http://127.0.0.1:9/v1', model: big, api_key: {CANARY}}}
engine:
  hf_token: {CANARY}
  otlp_traces_endpoint: grpc://127.0.0.1:4317?api_key={CANARY}
  model_loader_extra_config:
    aws_secret_access_key: {CANARY}
    apiKey: [{CANARY}]
    headers: {{x-team: {CANARY}}}
    Authorization: Basic {CANARY}
    credentials: {{user: {CANARY}}}
    passwd: 0{CANARY}
    smtp_pass: {CANARY}
    dsn: host=a user=b pass={CANARY}
    endpoints: ['redis://:{CANARY}@a:1', 'Authorization: Bearer {CANARY}', 'host=a password={CANARY} port=1']
    json: '{{"token": "{CANARY}"}}'
  max_model_len: 4096
"""


@pytest.fixture
def shown(slhf_server: Run, tmp_path: Path) -> str:
    """Everything that the real command writes until there is no bundle."""
    (tmp_path / "slhf.yaml").write_text(SETTINGS, encoding="utf-8")
    ended = slhf_server("--config", "slhf.yaml", "--port", "0", "--bundle", "./missing")
    assert ended.returncode == 1
    return ended.stdout + ended.stderr


def test_the_servers_log_shows_the_settings_without_a_secret(shown: str) -> None:
    assert CANARY not in shown
    (line,) = [line for line in shown.splitlines() if "settings: {" in line]
    settings = json.loads(json.loads(line)["message"].removeprefix("settings: "))
    assert settings["otlp_endpoint"] == "http://***@127.0.0.1:4318/v1/traces?***"
    assert settings["engine"]["otlp_traces_endpoint"] == "grpc://127.0.0.1:4317?***"
    assert settings["engine"]["max_model_len"] == 4096
    assert settings["upstreams"]["cloud"]["base_url"] == "http://127.0.0.1:9/v1"


def test_what_is_no_secret_is_shown_as_it_is() -> None:
    engine = {"max_num_batched_tokens": 8192, "tokenizer_mode": "auto", "served": ["a", None, True], "x": {"y": 0.5}}
    settings = Settings(
        engine=engine,
        bundle="owner/name@main",
        cache_dir=Path("/var/cache/slhf"),
        api_keys_file=Path("/etc/slhf/keys.yaml"),
        cors_origins=["https://a.example", "*"],
        otlp_endpoint="http://127.0.0.1:4318/v1/traces",
        upstreams={"cloud": UpstreamSettings(base_url="https://api.openai.com/v1", model="gpt-4o-mini")},
    )
    shown = settings.redacted()
    assert shown["engine"] == engine
    assert shown["api_keys"] is None
    assert shown["upstreams"]["cloud"]["api_key"] is None
    assert shown["limits"] == settings.limits.model_dump()
    for name in ("cache_dir", "api_keys_file", "otlp_endpoint", "cors_origins", "bundle"):
        assert shown[name] == settings.model_dump(mode="json")[name]


@pytest.mark.parametrize("variable", ["OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"])
@pytest.mark.parametrize("headers", [f"api-key {CANARY}", CANARY, f"a=b,x:{CANARY}"])
def test_a_header_for_the_collector_that_cannot_be_read_is_not_quoted(
    slhf_server: Run, variable: str, headers: str
) -> None:
    flags = ("--port", "0", "--bundle", "./missing", "--otlp-endpoint", "http://127.0.0.1:9/v1/traces")
    ended = slhf_server(*flags, **{variable: headers})
    assert "Header format invalid" in ended.stderr
    assert CANARY not in ended.stderr


@pytest.mark.parametrize("secret", [12345, 1.5, ["a"], {"a": "b"}, "text"])
def test_a_secret_of_any_type_is_hidden(secret: object) -> None:
    assert Settings(engine={"hf_token": secret}).redacted()["engine"] == {"hf_token": "***"}
