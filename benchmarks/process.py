"""A server in a process of its own, for as long as a block runs."""

import asyncio
import contextlib
import os
import socket
import subprocess
import tempfile
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2

_START_S = 240


@dataclass(frozen=True, slots=True)
class Process:
    url: str
    pid: int

    def cpu_seconds(self) -> float:
        """User and system time of all its threads so far; Linux counts it in steps of 10 ms."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@contextlib.asynccontextmanager
async def server(command: Sequence[str], ready: str) -> AsyncGenerator[Process, None]:
    """Run `command --port PORT` on a free port of 127.0.0.1 until the block ends; `ready` is the path to wait for."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}"
    environment = os.environ | {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1"}
    with tempfile.NamedTemporaryFile(suffix=".log", delete=False) as log:
        arguments = [*command, "--port", str(port)]
        process = await asyncio.to_thread(subprocess.Popen, arguments, stdout=log, stderr=log, env=environment)
    try:
        await _until_ready(process, url + ready, log.name)
        yield Process(url, process.pid)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait, 60)


async def _until_ready(process: "subprocess.Popen[bytes]", url: str, log: str) -> None:
    give_up = time.monotonic() + _START_S
    async with httpx2.AsyncClient() as http:
        while time.monotonic() < give_up and process.poll() is None:
            with contextlib.suppress(httpx2.TransportError):
                if (await http.get(url)).status_code == 200:
                    return
            await asyncio.sleep(0.2)
    raise RuntimeError(f"{process.args!r} did not become ready; see {log}")
