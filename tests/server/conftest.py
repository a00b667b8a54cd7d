"""Fixtures of the server's tests: a clean environment, and the real server and Python in processes of their own."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., subprocess.CompletedProcess[str]]
Play = Callable[[Coroutine[Any, Any, None]], None]


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("SLHF_") or name in ("HF_HOME", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
            monkeypatch.delenv(name)


@pytest.fixture
def slhf_server(tmp_path: Path) -> Run:
    """Run the real `slhf-server` to its end: `slhf_server("--port", "0", VARIABLE="...")`."""

    def run(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("slhf-server")), *flags]
        environ = os.environ | {"HF_HUB_OFFLINE": "1"} | environment
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environ)

    return run


@pytest.fixture
def python(tmp_path: Path) -> Run:
    """Run a Python program to its end: `python(program, *arguments, VARIABLE="...")`."""

    def run(program: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program, *arguments]
        environ = os.environ | environment
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, env=environ)

    return run


@pytest.fixture
def play() -> Play:
    """Run a scenario on an event loop of its own; one that hangs is an error."""

    async def bounded(scenario: Coroutine[Any, Any, None]) -> None:
        async with asyncio.timeout(20):
            await scenario

    return lambda scenario: asyncio.run(bounded(scenario))


def eventually(holds: Callable[[], bool], seconds: float = 20) -> bool:
    """Whether it holds before the time is over."""
    give_up = time.monotonic() + seconds
    while not (held := holds()) and time.monotonic() < give_up:
        threading.Event().wait(0.02)
    return held
