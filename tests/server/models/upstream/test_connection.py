"""Proxies and certificates from the environment: obeyed where they concern the upstream, and said at start where they
cannot work, by the name of the variable alone."""

from typing import Any

import httpx2
import pytest

from slhf_server.models.upstream.connection import connect
from slhf_server.settings.endpoints import UpstreamSettings
from slhf_server.settings.problem import SettingsError
from tests.server.conftest import Play, Run
from tests.server.models.upstream.faulty import HELLO, error, says, serving
from tests.server.models.upstream.stage import ASK, staged

URL = "http://llm.example.org/v1"


def connection(url: str = URL) -> httpx2.AsyncClient:
    settings = UpstreamSettings.model_validate({"base_url": url, "model": "big"})
    return connect("upstreams.cloud", str(settings.base_url), settings)


def refusal(url: str = URL) -> str:
    with pytest.raises(SettingsError) as raised:
        connection(url)
    assert "SECRET" not in str(raised.value)
    assert "\n" not in str(raised.value)
    return str(raised.value)


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_a_request_goes_through_the_proxy(
    play: Play, monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    async def scenario() -> None:
        async with serving(says(HELLO)) as proxy:
            monkeypatch.setenv(variable, f"{scheme}127.0.0.1:{proxy.port}")
            async with staged(error(500), base_url="http://llm.invalid/v1") as stage:
                assert (await stage.ask(deltas=False))[0].text == "Hello you"
                assert stage.server.asked == []
            assert proxy.asked[0].line == "POST http://llm.invalid/v1/chat/completions HTTP/1.1"

    play(scenario())


@pytest.mark.parametrize(
    ("url", "no_proxy"),
    [
        (URL, "*"),
        (URL, "example.org"),
        (URL, "llm.example.org"),
        (URL, "LLM.Example.ORG"),
        (URL, ".example.org"),
        (URL, "*.example.org"),
        (URL, "localhost, 127.0.0.1 , example.org"),
        (URL, "localhost example.org"),
        (URL, "example.org:80"),
        ("http://llm.example.org:8000/v1", "llm.example.org:8000"),
        ("http://127.0.0.1:8000/v1", "127.0.0.1"),
        ("http://127.0.0.1:8000/v1", "127.0.0.1:8000"),
        ("http://127.0.0.1:8000/v1", "127.0.0.0/8"),
        ("http://10.1.2.3/v1", "10.0.0.0/8"),
        ("http://[::1]:8000/v1", "::1"),
        ("http://[::1]:8000/v1", "[::1]"),
        ("http://[::1]:8000/v1", "[::1]:8000"),
        ("http://[fd00::5]/v1", "fd00::/8"),
        ("http://localhost:8000/v1", "localhost"),
        (URL, "http://llm.example.org"),
    ],
)
def test_a_proxy_that_is_not_on_the_way_is_not_looked_at(
    monkeypatch: pytest.MonkeyPatch, url: str, no_proxy: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://me:SECRET@127.0.0.1:1")
    assert "ALL_PROXY" in refusal(url)
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert connection(url)


@pytest.mark.parametrize(
    "no_proxy",
    ["", " ", ",", "ample.org", "other.org", "www.llm.example.org", ".llm.example.org", "llm.example.org:81"],
)
def test_a_proxy_that_is_on_the_way_is_looked_at(monkeypatch: pytest.MonkeyPatch, no_proxy: str) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:1")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert refusal()


def test_a_proxy_for_the_other_scheme_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "foo:bar")
    assert connection()
    assert refusal("https://llm.example.org/v1")


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.setenv(name, "")
    assert connection()
    assert connection("https://llm.example.org/v1")


@pytest.mark.parametrize("variable", ["HTTP_PROXY", "ALL_PROXY", "http_proxy"])
@pytest.mark.parametrize(
    "value",
    [
        "socks5://me:SECRET@127.0.0.1:1080",  # the package socksio is not installed
        "socks5h://127.0.0.1:1080",
        "socks://me:SECRET@127.0.0.1:1080",
        "socks4://127.0.0.1:1080",
        "ftp://127.0.0.1",
        "foo:bar",
        "http://me:SECRET@127.0.0.1:port",
        "http://me:SECRET@127.0.0.1:99999",
        "http://",
        "http://:3128",
        "http://me:SECRET@",
        "http://[::1",
        "SECRET SECRET",
        "http://SECRET\x7f.example.org",
        "://SECRET",
    ],
)
def test_a_proxy_that_cannot_work_ends_the_start(monkeypatch: pytest.MonkeyPatch, variable: str, value: str) -> None:
    monkeypatch.setenv(variable, value)
    assert refusal().startswith(f"upstreams.cloud: {variable}: ")


@pytest.mark.parametrize("variable", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_certificates_that_are_not_there_end_the_start(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "/nowhere/certificates")
    assert variable in refusal("https://llm.example.org/v1")
    assert connection()  # which is not encrypted


def test_a_file_without_certificates_ends_the_start(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "none.pem").write_text("nothing")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "none.pem"))
    assert "SSL_CERT_FILE" in refusal("https://llm.example.org/v1")


@pytest.mark.parametrize(
    ("variable", "value"),
    [("ALL_PROXY", "socks5://me:SECRET@127.0.0.1:1080"), ("HTTPS_PROXY", "foo:SECRET"), ("SSL_CERT_FILE", "/none")],
)
def test_the_command_ends_with_one_line(slhf_server: Run, tmp_path: Any, variable: str, value: str) -> None:
    (tmp_path / "up.yaml").write_text("upstreams: {cloud: {base_url: 'https://llm.example.org/v1', model: big}}")
    ended = slhf_server("--config", "up.yaml", "--port", "0", **{variable: value})
    assert ended.returncode == 1
    assert "Traceback" not in ended.stderr
    assert "SECRET" not in ended.stderr + ended.stdout
    assert ended.stderr.splitlines()[-1].startswith(f"slhf-server: upstreams.cloud: {variable}")


def test_nothing_is_sent_that_is_not_configured(play: Play, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither what .netrc holds for the host, nor a cookie that an answer has set, nor a header of OpenAI's."""
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login me password SECRET")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", "X-Mine: SECRET")

    async def scenario() -> None:
        async with staged(says(HELLO, Set_Cookie="session=SECRET; Path=/")) as stage:
            await stage.upstream.close()
            stage.build(api_key=None)
            for _ in range(2):
                await stage.ask(ASK, deltas=False)
            assert "SECRET" not in str([asked.headers for asked in stage.server.asked])
            assert set(stage.server.asked[1].headers) == {
                "host", "accept", "accept-encoding", "connection", "user-agent", "content-type", "content-length"
            }  # fmt: skip

    play(scenario())
