"""The real `slhf-server`, where it must end before any engine starts: exit status and the words on stderr."""

import asyncio
import socket
from pathlib import Path

import pytest

from slhf_server.cli import bind
from slhf_server.settings import Settings
from tests.server.conftest import Play, Run


def test_a_port_in_use_is_one_line_that_names_host_and_port(slhf_server: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = slhf_server("--port", str(port))
    assert ended.returncode == 1
    assert ended.stderr == f"slhf-server: host '127.0.0.1', port {port}: cannot bind: Address already in use\n"


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
    assert "slhf_server.loading" in imported
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
