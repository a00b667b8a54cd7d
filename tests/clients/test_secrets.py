"""A key in none of the errors: each way to fail is walked with a canary, in the library and in the command."""

import re
import socket
import subprocess
import sys
import traceback
from collections.abc import Callable

import httpx2
import pytest
from typer.testing import CliRunner

from slhf import SLHFError
from slhf._commands import app
from tests.clients.caller import Caller, Handler, bad, broken, in_turn
from tests.clients.fakes import raw_server

CANARY = "sk-canary-0123"
COMMAND = [sys.executable, "-c", "from slhf.cli import main; main()"]


def echo(status: int, **headers: str) -> Handler:
    """A server that quotes the request in its error."""
    return lambda request: httpx2.Response(status, text=str(request.headers.raw), headers=headers)


def echo_json(request: httpx2.Request) -> httpx2.Response:
    said = {"message": f"wrong: {request.headers['Authorization']}", "type": "t", "code": "invalid_api_key"}
    return httpx2.Response(401, json={"error": said})


def illegal(request: httpx2.Request) -> httpx2.Response:
    raise httpx2.LocalProtocolError(f"Illegal header value b'{request.headers['Authorization']}'")


@pytest.mark.parametrize(
    "failure",
    [
        *(echo(status) for status in (200, 400, 401, 403, 404, 413, 429, 431, 500, 502, 503, 504)),
        *(echo(status, Location="https://other/v1/models") for status in (301, 302, 307, 308)),
        echo_json,
        illegal,
        bad(401, "invalid_api_key"),
        *(
            broken(kind)
            for kind in (httpx2.ConnectError, httpx2.ReadTimeout, httpx2.RemoteProtocolError, httpx2.ProxyError)
        ),
    ],
)
def test_no_exception_holds_the_key(caller: Caller, failure: Handler) -> None:
    caller.settings |= {"api_key": CANARY, "max_retries": 0}
    in_turn(caller, failure)
    with pytest.raises(SLHFError) as raised:
        caller.refine("why?")
    assert CANARY not in f"{raised.value} {raised.value!r} {vars(raised.value)}"
    told = "".join(traceback.format_exception(raised.value))
    assert CANARY not in told or failure is illegal  # the test's own exception says it there


def test_a_redirect_is_not_followed_and_says_where_it_points(caller: Caller) -> None:
    sent = in_turn(
        caller, lambda request: httpx2.Response(307, headers={"Location": "https://other/v1/models?token=x"})
    )
    with pytest.raises(SLHFError, match="HTTP 307 Temporary Redirect from .*: it points to https://other/v1/models$"):
        caller.models()
    assert len(sent) == 1


def refused() -> str:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        return f"http://127.0.0.1:{unused.getsockname()[1]}"


@pytest.mark.parametrize(
    "environment",
    [
        lambda: {"SLHF_BASE_URL": refused()},
        lambda: {"SLHF_BASE_URL": "far"},
        lambda: {"SLHF_BASE_URL": "http://caf\udce9"},
        lambda: {"SLHF_BASE_URL": f"http://x:{CANARY}@127.0.0.1:9"},
        lambda: {"SLHF_BASE_URL": f"http://127.0.0.1:9?key={CANARY}"},
        lambda: {"SLHF_BASE_URL": CANARY},
        lambda: {"SLHF_API_KEY": f"“{CANARY}”"},
        lambda: {"SLHF_API_KEY": f"{CANARY}\r\nHost: evil"},
        lambda: {"SLHF_API_KEY": f"{CANARY}\udcff"},
        lambda: {"SLHF_API_KEY": f"Bearer {CANARY}"},
        lambda: {"SLHF_BASE_URL": "https://127.0.0.1:9", "SSL_CERT_FILE": "/nowhere.pem"},
        lambda: {"SLHF_BASE_URL": "https://127.0.0.1:9", "SSL_CERT_DIR": "/nowhere"},
        lambda: {"ALL_PROXY": f"socks5://u:{CANARY}@127.0.0.1:1080"},
        lambda: {"all_proxy": f"socks://u:{CANARY}@127.0.0.1:1080"},
        lambda: {"HTTP_PROXY": f"u:{CANARY}"},
        lambda: {"HTTP_PROXY": f"http://u:{CANARY}@{refused().removeprefix('http://')}"},
        lambda: {"HTTP_PROXY": "http://\udcff:1"},
    ],
)
def test_the_command_ends_with_one_line_that_holds_no_secret(
    environment: Callable[[], dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    result = CliRunner().invoke(app, ["refine", "why?"], env={"SLHF_API_KEY": CANARY, **environment()})
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)  # and no other, which would be a traceback
    assert result.stdout == ""
    assert re.fullmatch(r"slhf: .+\n", result.stderr)
    assert CANARY not in result.stderr


def test_a_server_that_speaks_no_tls_is_one_line() -> None:
    with raw_server(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (url, _):
        result = CliRunner().invoke(app, ["models", "--base-url", url.replace("http://", "https://")])
    assert result.exit_code == 1
    assert re.fullmatch(r"slhf: cannot connect to https://.*\n", result.stderr)


@pytest.mark.parametrize(
    "arguments",
    [
        ("refine", b"caf\xe9"),
        ("refine", "why?", "--model", b"caf\xe9"),
        ("refine", "why?", "--draft", b"caf\xe9.txt"),
        ("refine", "--input", b"caf\xe9.jsonl", "--output", "out"),
        ("refine", "why?", b"--caf\xe9", "1"),
    ],
)
def test_an_argument_that_is_not_utf8_is_wrong_usage(arguments: tuple[str | bytes, ...]) -> None:
    result = subprocess.run([*COMMAND, *arguments], capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert result.stderr
