"""Fixtures that several folders use: a fake-engine application, in process and on a real socket."""

import asyncio
import contextlib
import re
import signal
import threading
from collections.abc import AsyncGenerator, Callable, Iterator
from pathlib import Path

import httpx2
import hypothesis
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.applications import Starlette
from starlette.routing import Mount

from slhf_server.api.protocol import protocol
from slhf_server.app import create_app
from slhf_server.builtin.catalogue import NAME, built_in
from slhf_server.cli import bind
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.standstill import event_loops_keep_running, pytest_terminal_summary

__all__ = ["event_loops_keep_running", "pytest_terminal_summary"]  # hooks and fixtures that pytest finds here

Serve = Callable[..., str]

# A shell has the jobs in its background ignore SIGINT, and the programs that a test starts would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)
hypothesis.settings.register_profile("patient", parent=hypothesis.settings(), deadline=None)  # a machine may be busy
hypothesis.settings.load_profile("patient")


def mounted(app: FastAPI, prefix: str) -> Starlette:
    """Another application that has this one under a prefix, and lives as long as it does."""

    @contextlib.asynccontextmanager
    async def live(outer: Starlette) -> AsyncGenerator[None, None]:
        async with app.router.lifespan_context(app):
            yield

    mount = Mount(prefix, app)
    # Starlette's own pattern takes no line break, and the outer application, which is none of ours, would answer.
    mount.path_regex = re.compile(mount.path_regex.pattern, re.DOTALL)
    return Starlette(routes=[mount], lifespan=live)


@contextlib.contextmanager
def running(app: FastAPI, prefix: str = "") -> Iterator[str]:
    """The application behind uvicorn on a free port of 127.0.0.1; yields its base URL. With a prefix, mounted there."""
    settings: Settings = app.state.service.settings
    listener = bind(settings.model_copy(update={"port": 0}))
    http = protocol(settings.read_timeout_s)
    served = mounted(app, prefix) if prefix else app
    config = uvicorn.Config(served, http=http, loop="asyncio", log_config=None, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=([listener],), daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}{prefix}"
    try:
        await_ready(url, thread)
        yield url
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive(), "the server did not end"


def await_ready(url: str, thread: threading.Thread, attempts: int = 200) -> None:
    for _ in range(attempts):
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/ready", timeout=5).status_code == 200:
                return
        thread.join(0.02)
    raise AssertionError("the server did not become ready")


async def until(holds: Callable[[], bool], pause: float = 0.0) -> None:
    """Give the event loop its turns until it holds; the caller's timeout is the bound."""
    for _ in iter(lambda: bool(holds()), True):
        await asyncio.sleep(pause)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Start servers with a fake engine: `serve(engine, **settings)` gives the base URL."""
    with contextlib.ExitStack() as stack:

        def start(engine: FakeEngine | None = None, **settings: object) -> str:
            engine = engine or FakeEngine()
            return stack.enter_context(running(create_app(Settings(**settings), engine.open)))  # type: ignore[arg-type]

        yield start


@pytest.fixture(scope="session")
def builtin() -> Path:
    """The built-in bundle's directory, converted on first use into the user's cache as `slhf-server` does."""
    return built_in(f"builtin:{NAME}", Settings())
