"""What arguments and the environment may hold; every test of a call runs for `Client` and for `AsyncClient`."""

import re
from pathlib import Path

import httpx2
import pytest

from slhf import AsyncClient, Client, ConfigurationError, TransportError
from tests.clients.caller import Caller, good, in_turn
from tests.clients.fakes import FakeServer, raw_server

PROXIES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")
PAGE = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


@pytest.fixture(autouse=True)
def no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*PROXIES, *map(str.lower, PROXIES), "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)


def problem_of(caller: Caller) -> str:
    with pytest.raises(ConfigurationError) as raised:
        caller.models()
    return str(raised.value)


NO_KEYS = [
    "“sk-canary”",
    "sk-canary\r\nX-Evil: 1",
    "sk canary",
    "sk-canäry",
    "sk-canary\0",
    "sk-\udcffcanary",
    "\ufeffsk-canary",
    '"sk-canary"',
    "'sk-canary'",
]


@pytest.mark.parametrize("key", NO_KEYS)
@pytest.mark.parametrize("name", ["api_key", "SLHF_API_KEY"])
def test_a_key_that_no_header_can_hold_is_refused_by_the_name_of_where_it_stands(
    caller: Caller, key: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "api_key":
        caller.settings["api_key"] = key
    elif "\0" in key:
        pytest.skip("no variable can hold it")
    else:
        monkeypatch.setenv(name, key)
    said = problem_of(caller)
    assert said.startswith(f"{name}: ")
    assert "can" not in said.replace("can be", "")
    assert "sk-" not in said


@pytest.mark.parametrize("key", ["sk-abc\r\n", "\tsk-abc ", "sk-abc\r", "sk-abc\n"])
def test_white_space_at_the_ends_of_a_key_is_no_part_of_it(
    caller: Caller, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLHF_API_KEY", key)
    sent = in_turn(caller, good)
    caller.refine("why?")
    assert sent[0].headers["Authorization"] == "Bearer sk-abc"


@pytest.mark.parametrize("key", ["", " ", "\r\n"])
def test_an_empty_key_is_none_even_where_the_environment_has_one(
    caller: Caller, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLHF_API_KEY", "secret")
    caller.settings["api_key"] = key
    sent = in_turn(caller, good)
    caller.refine("why?")
    assert "Authorization" not in sent[0].headers


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        ("far", "begins with http:// or https://"),
        ("far:8000", "begins with http:// or https://"),
        ("//far", "begins with http:// or https://"),
        ("ftp://far", "begins with http:// or https://"),
        ("sk-canary", "begins with http:// or https://"),
        ("http://", "'http://': its host or port is none"),
        ("http:///v1", "its host or port is none"),
        ("http://far:port", "'http://far:port': its host or port is none"),
        ("http://far:99999", "its host or port is none"),
        ("http://far:-1", "its host or port is none"),
        ("http://a..b", "its host or port is none"),
        (f"http://{'a' * 64}.org", "its host or port is none"),
        ("http://[::1", "its host or port is none"),
        ("http://caf\udce9", "a character that no address has"),
        ("http://far\n.org", "a character that no address has"),
        ("http://far out", "a character that no address has"),
        ("http://user:canary@far", "no place for a user and password"),
        ("http://canary@far", "no place for a user and password"),
        ("http://far?key=canary", "no place for a query"),
        ("http://far/#canary", "no place for a query or a fragment"),
    ],
)
@pytest.mark.parametrize("name", ["base_url", "SLHF_BASE_URL"])
def test_an_address_that_is_none_is_refused_by_the_name_of_where_it_stands(
    caller: Caller, written: str, problem: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name == "base_url":
        caller.settings["base_url"] = written
    else:
        monkeypatch.setenv(name, written)
    said = problem_of(caller)
    assert said.startswith(name)
    assert problem in said
    assert "canary" not in said


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("http://far", "http://far/v1/refine"),
        (" http://far/\r\n", "http://far/v1/refine"),
        ("HTTP://far:80/v1", "http://far/v1/refine"),
        ("http://far/v1/v1", "http://far/v1/refine"),
        ("http://far//v1//", "http://far/v1/refine"),
        ("http://v1/v1", "http://v1/v1/refine"),
        ("http://far/small/v1", "http://far/small/v1/refine"),
        ("http://far/a%2Fb/v1", "http://far/a%2Fb/v1/refine"),
        ("http://[::1]:9", "http://[::1]:9/v1/refine"),
        ("http://b\u00fccher.example", "http://xn--bcher-kva.example/v1/refine"),
    ],
)
def test_an_address_is_read_as_people_write_it(caller: Caller, written: str, asked: str) -> None:
    caller.settings["base_url"] = written
    sent = in_turn(caller, good)
    caller.refine("why?")
    assert str(sent[0].url) == asked


@pytest.mark.parametrize(
    ("variable", "proxy", "problem"),
    [
        ("ALL_PROXY", "socks5://127.0.0.1:1080", "a SOCKS proxy needs one more package"),
        ("ALL_PROXY", "socks5h://u:canary@127.0.0.1:1080", "a SOCKS proxy needs one more package"),
        ("all_proxy", "socks://127.0.0.1:1080/", "begins with http://, https://, socks5:// or socks5h://"),
        ("ALL_PROXY", "socks4://u:canary@h", "begins with http://, https://, socks5:// or socks5h://"),
        ("HTTP_PROXY", "ftp://canary@h", "begins with http://"),
        ("HTTP_PROXY", "foo:canary", "its host or port is none"),
        ("http_proxy", "http://u:canary@h:port", "its host or port is none"),
        ("HTTP_PROXY", "http://", "its host or port is none"),
        ("HTTP_PROXY", "http://h:99999", "its host or port is none"),
        ("HTTP_PROXY", "http://h:-1", "its host or port is none"),
        ("HTTP_PROXY", "http://caf\udce9:1", "a character that no address has"),
        ("HTTP_PROXY", "http://u:can\u2019ary canary@h:1", "a character that no address has"),
    ],
)
def test_a_proxy_that_cannot_be_used_is_refused_by_its_variable(
    caller: Caller, variable: str, proxy: str, problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importable("socksio"):
        pytest.skip("SOCKS proxies can be used here")
    monkeypatch.setenv(variable, proxy)
    caller.settings["base_url"] = "http://far"
    said = problem_of(caller)
    assert said.startswith(f"{variable}: ")
    assert problem in said
    assert "canary" not in said


def importable(name: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(name) is not None


@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:1080", "socks://h", "foo:bar", "http://127.0.0.1:9"])
@pytest.mark.parametrize(
    "excepted",
    [
        "127.0.0.1",
        "*",
        "localhost, 127.0.0.1 ",
        "far,127.0.0.0/8",
        "127.0.0.1:{port}",
        "http://127.0.0.1",
        "[::1],127.0.0.1",
    ],
)
def test_a_proxy_is_not_looked_at_where_no_proxy_covers_the_server(
    caller: Caller, url: str, proxy: str, excepted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", proxy)
    monkeypatch.setenv("NO_PROXY", excepted.format(port=url.rpartition(":")[2]))
    caller.settings["base_url"] = url
    assert caller.models()[0].id == "duo"


def test_a_proxy_for_another_scheme_is_not_looked_at(caller: Caller, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "socks://h")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    caller.settings["base_url"] = url
    assert caller.models()[0].id == "duo"


@pytest.mark.parametrize(
    ("address", "excepted", "used"),
    [
        ("http://llm.example.org", "example.org", False),
        ("http://llm.example.org", ".example.org", False),
        ("http://llm.example.org", "*.example.org", False),
        ("http://LLM.example.org", "llm.EXAMPLE.org", False),
        ("http://llm.example.org:8000", "example.org:8000", False),
        ("http://llm.example.org", "example.org:80", False),
        ("http://llm.example.org", "ample.org", True),
        ("http://llm.example.org:8000", "example.org:80", True),
        ("http://example.org", "llm.example.org", True),
        ("http://10.1.2.3", "10.0.0.0/8", False),
        ("http://10.1.2.3", "11.0.0.0/8,10.1.2", True),
        ("http://[::1]:8", "::1", False),
        ("http://[::1]:8", "[::1]:8", False),
        ("http://far", ",, [ ,/,:", True),
        ("http://example.org", ".example.org", True),
        ("http://[fd00::5]", "[fd00::]/8", False),
        ("http://far", "", True),
    ],
)
def test_no_proxy_names_hosts_ports_and_networks(
    address: str, excepted: str, used: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether the proxy is asked for: this one cannot be used, and says so."""
    monkeypatch.setenv("HTTP_PROXY", "nonsense://h")
    monkeypatch.setenv("NO_PROXY", excepted)
    if used:
        with pytest.raises(ConfigurationError, match="HTTP_PROXY"):
            Client(address)
    else:
        Client(address).close()


@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_proxy_is_used(caller: Caller, scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    caller.settings |= {"base_url": "http://far.example", "max_retries": 0}
    with raw_server(PAGE) as (proxy, got):
        monkeypatch.setenv("HTTP_PROXY", f"{scheme}user:pass@{proxy.removeprefix('http://')}\n")
        with pytest.raises(TransportError, match="not a ModelList"):
            caller.models()
    assert got[0].startswith(b"GET http://far.example/v1/models HTTP/1.1\r\n")
    assert b"Proxy-Authorization: Basic" in got[0]


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there_are_named_by_their_variable(
    caller: Caller, variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(variable, str(tmp_path / "nowhere"))
    caller.settings["base_url"] = "https://127.0.0.1:9"
    assert re.match(rf"{variable} '.*nowhere': .*[Nn]o such", problem_of(caller))


def test_a_log_of_keys_that_cannot_be_written_is_not_blamed_on_certificates(
    caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "nowhere" / "log"))
    caller.settings["base_url"] = "https://127.0.0.1:9"
    assert problem_of(caller).startswith("SSLKEYLOGFILE '")


def test_a_file_of_certificates_that_holds_none_is_named(
    caller: Caller, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty.pem").touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "empty.pem"))
    caller.settings["base_url"] = "https://127.0.0.1:9"
    assert problem_of(caller).startswith("SSL_CERT_FILE '")


@pytest.mark.parametrize("seconds", [float("nan"), float("inf"), 0.0, -1.0, 1e18])
def test_a_timeout_is_a_number_of_seconds(caller: Caller, seconds: float) -> None:
    caller.settings["timeout"] = seconds
    assert problem_of(caller).startswith("timeout: ")


def test_what_the_environment_says_of_the_way_does_not_touch_a_transport_of_the_callers(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALL_PROXY", "nonsense://h")
    monkeypatch.setenv("SSL_CERT_FILE", "/nowhere.pem")
    caller.settings["base_url"] = "https://far"
    in_turn(caller, good)
    assert caller.refine("why?", rounds=0).output == "why?"


def test_a_client_shows_no_key(fake: FakeServer) -> None:
    for client in (
        Client(api_key="sk-canary"),
        AsyncClient(transport=httpx2.ASGITransport(fake.app), api_key="sk-canary"),
    ):
        assert "canary" not in f"{client} {client!r} {client._http!r} {client._http.headers!r}"
