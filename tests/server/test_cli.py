"""The real `slhf-server`, where it must end before any engine starts: exit status and the words on stderr."""

import asyncio
import socket
from pathlib import Path

import pytest

from slhf_server.cli import bind
from slhf_server.settings.server import Settings
from tests.server.conftest import Play, Run


def test_a_port_in_use_is_one_line_that_names_host_and_port(slhf_server: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = slhf_server("--port", str(port))
    assert ended.returncode == 1
    assert ended.stderr == f"slhf-server: host '127.0.0.1', port {port}: cannot bind: Address already in use\n"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--host", "nowhere.invalid"], "host 'nowhere.invalid', port 0: cannot bind: "),
        (["--host", "256.0.0.1"], "host '256.0.0.1', port 0: cannot bind: "),
        (["--host", "[::1]"], "host '[::1]', port 0: cannot bind: "),
        (["--host", "é" * 70], "host 'éé"),
        (["--host", ""], "host: String should have at least 1 character"),
        (["--bundle", ""], "bundle: String should have at least 1 character"),
        (["--bundle", "x" * 5000], "bundle 'xxx"),
        (["--bundle", "/etc/passwd"], "bundle: '/etc/passwd' is no directory"),
        (["--bundle", "."], "bundle '.': "),
        (["--bundle", "builtin:smollm2-135m", "--cache-dir", "/dev/null"], "cache_dir: [Errno 17] File exists"),
        (["--bundle", "builtin:smollm2-135m", "--cache-dir", "/proc/none"], "cache_dir: [Errno 2] No such file"),
        (["--cache-dir", ""], "cache_dir: "),
        (["--config", ""], "config .: Is a directory"),
        (["--api-keys-file", ""], "api_keys_file: "),
        (["--api-keys-file", "/proc/none"], "api_keys_file /proc/none: No such file or directory"),
        (["--api-keys", ""], "api_keys: entry 1 must be name=key"),
        (["--write-timeout-s", "1e10"], "write_timeout_s: Input should be less than or equal to 86400"),
        (["--grace-period-s", "inf"], "grace_period_s: Input should be a finite number"),
        (["--port", "1" * 5000], "port: "),
        (["--models", "{bad"], "models: neither JSON nor key=value: "),
        (["--engine", "bad"], "engine: neither JSON nor key=value: "),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_what_cannot_be_used_ends_the_server_with_one_line_that_names_it(
    slhf_server: Run, flags: list[str], said: str
) -> None:
    """No JSON of the log: what ends the start is a plain line, and the last one."""
    if "--bundle" not in flags:
        flags = [*flags, "--bundle", "./missing"]
    ended = slhf_server("--port", "0", *flags)
    (line,) = [line for line in ended.stderr.splitlines() if not line.startswith("{")]
    assert (ended.returncode, line) == (1, ended.stderr.splitlines()[-1])
    assert line.startswith(f"slhf-server: {said}")


def test_answers_are_sent_without_waiting_for_the_clients_acknowledgement(play: Play) -> None:
    """Nagle's algorithm would hold back an answer's body, and every second piece of a stream, for up to 40 ms."""

    async def scenario() -> None:
        accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()

        def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.put_nowait(writer)

        listener = bind(Settings(port=0))
        async with await asyncio.start_server(accept, sock=listener):
            _, client = await asyncio.open_connection(*listener.getsockname())
            server = await accepted.get()
            connection = server.get_extra_info("socket")
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1
            for writer in (client, server):
                writer.close()
                await writer.wait_closed()

    play(scenario())


def test_a_bundle_that_does_not_exist_ends_the_server_before_vllm_is_imported(slhf_server: Run) -> None:
    """Python's own profile of imports, switched on by the environment, has a line for each module."""
    ended = slhf_server("--port", "0", "--bundle", "./missing", PYTHONPROFILEIMPORTTIME="1")
    lines = ended.stderr.splitlines()
    imported = {line.rsplit("|", 1)[1].strip() for line in lines if line.startswith("import time:")}
    assert ended.returncode == 1
    assert "slhf-server: bundle: './missing' is no directory, and no hub id (owner/name) either" in lines
    assert "slhf_server.loading.start" in imported
    assert not {"vllm", "torch", "transformers"} & imported
    assert "Traceback" not in ended.stderr


def test_a_broken_manifest_is_named_with_file_and_key(slhf_server: Run, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "slhf.json").write_text('{"name": "duo", "sampling": {"temperature": 9}}')
    ended = slhf_server("--port", "0", "--bundle", "bundle")
    assert ended.returncode == 1
    assert ended.stderr.splitlines()[-1].startswith(
        "slhf-server: bundle 'bundle': bundle/slhf.json: sampling.temperature: "
    )
    assert "Traceback" not in ended.stderr


def test_an_unknown_flag_is_answered_with_the_usage(slhf_server: Run) -> None:
    ended = slhf_server("--nonsense")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert ended.stderr.startswith("usage: slhf-server ")
    assert ended.stderr.splitlines()[-1] == "slhf-server: error: unrecognized arguments: --nonsense"


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("limits: [", "slhf-server: config settings.yaml: "),
        ("limits: {rounds: many}", "slhf-server: limits.rounds: Input should be a valid integer"),
    ],
)
def test_a_bad_configuration_file_ends_the_server_without_traceback(
    slhf_server: Run, tmp_path: Path, content: str, problem: str
) -> None:
    (tmp_path / "settings.yaml").write_text(content)
    ended = slhf_server("--config", "settings.yaml")
    assert ended.returncode == 1
    assert ended.stderr.startswith(problem)
    assert "Traceback" not in ended.stderr


def test_help_lists_every_setting(slhf_server: Run) -> None:
    ended = slhf_server("--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    for flag in ("--bundle", "--config", "--engine", "--limits.rounds", "--grace-period-s"):
        assert flag in ended.stdout
