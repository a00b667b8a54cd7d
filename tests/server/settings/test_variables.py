"""Environment variables that begin with SLHF_ and are not the server's: links to services, and empty ones."""

import json
from typing import Any

import pytest

from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.server.conftest import Run


def links(
    service: str, host: str = "10.96.0.17", ports: tuple[tuple[int, str], ...] = ((8000, "TCP"),)
) -> dict[str, str]:
    """What the kubelet gives each pod for a Service (kubernetes/pkg/kubelet/envvars/envvars.go).

    Names of ports stand for themselves; the first port has the names without a number too.
    """
    name = service.upper().replace("-", "_")
    url = f"[{host}]" if ":" in host else host
    first, protocol = ports[0]
    variables = {
        f"{name}_SERVICE_HOST": host,
        f"{name}_SERVICE_PORT": str(first),
        f"{name}_PORT": f"{protocol.lower()}://{url}:{first}",
    }
    for number, protocol in ports:
        port = f"{name}_PORT_{number}_{protocol}"
        variables |= {
            f"{name}_SERVICE_PORT_HTTP_{number}": str(number),
            port: f"{protocol.lower()}://{url}:{number}",
            f"{port}_PROTO": protocol.lower(),
            f"{port}_PORT": str(number),
            f"{port}_ADDR": host,
        }
    return variables


SERVICES = [
    links("slhf"),
    links("slhf-server"),
    links("slhf-head-svc", ports=((10001, "TCP"), (8265, "TCP"), (6379, "TCP"), (8080, "TCP"), (8000, "TCP"))),
    links("slhf-api-v2", "fd00::1"),
    links("slhf", "::ffff:10.0.0.1", ports=((53, "UDP"), (53, "TCP"), (9, "SCTP"))),
    links("slhf-bundle"),
    links("slhf-port"),
    links("slhf-host"),
    links("slhf-config"),
    links("slhf-limits"),
    links("slhf-engine--x"),
    links("slhf-limits--rounds"),
    links("slhf-models--a"),
    links("slhf-port-8000-tcp"),
    links("slhf-service"),
    links("slhf-8b"),
    links("slhf--x"),
]


@pytest.mark.parametrize("variables", SERVICES, ids=lambda variables: next(iter(variables)))
def test_links_to_services_neither_stop_nor_configure_the_server(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings([]) == Settings.model_construct()
    monkeypatch.setenv("SLHF_LIMITS__ROUNDS", "3")
    assert load_settings(["--port", "9000"]).port == 9000
    assert load_settings([]).limits.rounds == 3


def test_the_server_starts_beside_every_service_and_says_what_it_leaves_aside(slhf_server: Run) -> None:
    """It gets as far as the bundle, which there is not."""
    variables = links("slhf") | links("slhf-server", "fd00::1") | links("slhf-head-svc")
    ended = slhf_server("--port", "0", "--bundle", "./missing", **variables)
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith("slhf-server: bundle: './missing'")
    messages = [json.loads(line)["message"] for line in ended.stderr.splitlines() if line.startswith("{")]
    (told,) = [message for message in messages if "enableServiceLinks: false" in message]
    assert all(name in told for name in variables)


def test_without_links_nothing_is_said_about_them(slhf_server: Run) -> None:
    assert "enableServiceLinks" not in slhf_server("--port", "0", "--bundle", "./missing").stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("SLHF_SERVICE_HOST", "slhf.example"),
        ("SLHF_SERVICE_HOST", ""),
        ("SLHF_SERVICE_HOST", "10.0.0.256"),
        ("SLHF_SERVICE_PORT", "many"),
        ("SLHF_SERVICE_PORT", "0"),
        ("SLHF_SERVICE_PORT", "70000"),
        ("SLHF_API_PORT", "8000"),
        ("SLHF_BIND_PORT", "tcp://somewhere:8000"),
        ("SLHF_PORT_8000_TCP", "8000"),
        ("SLHF_PORT_8000_TCP_PROTO", "http"),
        ("SLHF_PORTT", "tcp://10.0.0.1:8000"),
        ("SLHF_HOSTS", "10.0.0.1"),
        ("SLHF_ENV_PATH", "/usr/bin"),
        ("SLHF_NAME", "/web/slhf"),
    ],
)
def test_a_mistyped_setting_is_no_link(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings([])
    assert str(refused.value) == f"environment variable {variable}: no such setting"


@pytest.mark.parametrize("value", ["9000", " 9000\n", "9_000", "9e3"])
def test_a_port_that_is_a_number_is_the_setting(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    for name, link in links("slhf").items():
        monkeypatch.setenv(name, link)
    monkeypatch.setenv("SLHF_PORT", value)
    assert load_settings([]).port == 9000


@pytest.mark.parametrize("value", ["tcp://slhf:8000", "tcp://10.0.0.1", "http://10.0.0.1:8000", "10.0.0.1"])
def test_a_port_that_is_neither_a_number_nor_a_link_is_refused(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("SLHF_PORT", value)
    with pytest.raises(SettingsError, match="^port: .*got '"):
        load_settings([])


def test_an_engines_argument_that_sounds_like_a_link_is_one_only_with_a_links_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLHF_ENGINE__MASTER_PORT", "29501")
    monkeypatch.setenv("SLHF_ENGINE__MASTER_ADDR", "10.0.0.1")
    assert load_settings([]).engine == {"master_port": 29501, "master_addr": "10.0.0.1"}


@pytest.mark.parametrize("value", ["", " ", "\r\n"])
def test_an_empty_variable_is_not_given(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """As Docker Compose's `${VARIABLE:-}` passes it."""
    for name in (
        "PORT",
        "BUNDLE",
        "HOST",
        "CONFIG",
        "LIMITS",
        "LIMITS__ROUNDS",
        "LOG_CONTENT",
        "MODELS",
        "CORS_ORIGINS",
    ):
        monkeypatch.setenv(f"SLHF_{name}", value)
    assert load_settings([]) == Settings.model_construct()


@pytest.mark.parametrize("value", ["", " ", "\r\n"])
@pytest.mark.parametrize(
    ("variable", "key"),
    [
        ("SLHF_API_KEYS", "api_keys"),
        ("SLHF_API_KEYS_FILE", "api_keys_file"),
        ("slhf_api_keys", "api_keys"),
        ("SLHF_UPSTREAMS__CLOUD__API_KEY", "upstreams.cloud.api_key"),
    ],
)
def test_an_empty_key_is_refused_for_it_would_open_the_server(
    monkeypatch: pytest.MonkeyPatch, variable: str, key: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as refused:
        load_settings([])
    assert str(refused.value) == f"{key} is empty: unset the environment variable {variable}, or give it a value"


@pytest.mark.parametrize(
    ("variable", "value", "read"),
    [
        ("SLHF_LOG_CONTENT", "yes", {"log_content": True}),
        ("SLHF_LOG_CONTENT", "on\r", {"log_content": True}),
        ("SLHF_LOG_CONTENT", "0", {"log_content": False}),
        ("SLHF_LOG_LEVEL", "debug\r\n", {"log_level": "debug"}),
        ("SLHF_HOST", "::1\n", {"host": "::1"}),
        ("SLHF_LIMITS", '{"rounds": null, "running": "7"}', {"limits": {"running": 7}}),
        ("SLHF_MODELS", '{"a": null}', {"models": {"a": {}}}),
        ("SLHF_SPECULATION", "False", {"speculation": "off"}),
        ("SLHF_SPECULATION", "AUTO", {"speculation": "auto"}),
        ("SLHF_LIMITS__BODY_BYTES", "4.194304e+06", {"limits": {"body_bytes": 4 << 20}}),
        ("SLHF_LIMITS__BODY_BYTES", "0x400000", {"limits": {"body_bytes": 4 << 20}}),
    ],
)
def test_a_variable_is_read_as_people_write_it(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, read: dict[str, Any]
) -> None:
    monkeypatch.setenv(variable, value)
    assert load_settings([]).model_dump(exclude_unset=True) == Settings(**read).model_dump(exclude_unset=True)
