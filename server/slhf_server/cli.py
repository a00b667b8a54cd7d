"""`slhf-server`: bind, serve, end in good order."""

import asyncio
import gc
import json
import logging
import math
import os
import signal
import socket
import sys
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import FrameType
from typing import Literal

import uvicorn
from fastapi import FastAPI

from slhf_server.access.keys import Keyring
from slhf_server.api.protocol import protocol
from slhf_server.app import create_app, create_operators_app
from slhf_server.errors import EngineUnavailable
from slhf_server.loading.start import open_vllm
from slhf_server.models.base import OwnEngine
from slhf_server.observability import logs
from slhf_server.service import OpenEngine, Service
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from slhf_server.settings.variables import service_links

_LEAKY_LOGGERS = ("httpx2", "httpcore2")
"""Their loggers would show addresses (info) and prompts (debug)."""
_KEEP_ALIVE_S = 75
"""Longer than clients and load balancers keep an idle connection (httpx 5 s, nginx and AWS 60 s): the server must not
be the first to close one, because a request may be on its way."""
_logger = logging.getLogger("slhf_server")


class OperatorsServer(uvicorn.Server):
    """Uvicorn beside the clients' server, which is told of signals."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Server(uvicorn.Server):
    """Uvicorn, which on the first signal also tells every running refinement to answer within the grace period."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        service.on_failure = self._give_up  # a supervisor must see that a server without engine ends

    def _give_up(self) -> None:
        self._service.drain(self._service.settings.grace_period_s)  # what waits for an upstream must not hold it up
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Python calls this between any two bytecodes, the loop's too, so changing deadlines is left to the loop."""
        if not self.should_exit:
            asyncio.get_running_loop().call_soon_threadsafe(self._service.drain, self._service.settings.grace_period_s)
        super().handle_exit(sig, frame)


def main() -> None:
    """Serve until a signal or a failure ends the process; a failure is one line on standard error and status 1."""
    try:
        settings = load_settings(sys.argv[1:])
        logs.configure(settings.log_level, settings.log_format)
        for name in _LEAKY_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)
        listener = bind(settings)
        asyncio.run(serve(settings, listener))
    except (SettingsError, EngineUnavailable) as exc:
        sys.exit(f"slhf-server: {' '.join(str(exc).split())}")  # vLLM's and the hub's words have several lines
    except KeyboardInterrupt:
        pass  # uvicorn has ended in good order and only then raises the signal again


def bind(settings: Settings, whose: Literal["", "admin_"] = "") -> socket.socket:
    """Open a listening socket, before anything slow starts. Raises SettingsError naming host and port."""
    host, port = getattr(settings, f"{whose}host"), getattr(settings, f"{whose}port")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # asyncio sends without delay (TCP_NODELAY) only where the protocol is named; else an ACK is awaited for 40 ms.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except OSError as exc:  # no IPv6 here
        raise SettingsError(f"{whose}host {host!r}: {exc.strerror}") from exc
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux: else a closed connection stays until its client has read the rest
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, math.ceil(settings.write_timeout_s * 1e3))
    try:
        listener.bind((host, port))
    except (OSError, TypeError, ValueError) as exc:  # the last two: a host that is no name in any encoding
        listener.close()
        problem = exc.strerror if isinstance(exc, OSError) else exc
        raise SettingsError(f"{whose}host {host!r}, {whose}port {port}: cannot bind: {problem}") from exc
    return listener


async def serve(settings: Settings, listener: socket.socket, open_engine: OpenEngine = open_vllm) -> None:
    """Serve until a signal ends it, or until the engine cannot be loaded or dies; then raise the reason.

    On SIGHUP the keys file is read again.
    """

    async def opened(settings: Settings) -> OwnEngine:
        engine = await open_engine(settings)
        gc.collect()
        gc.freeze()  # else each full collection walks all that start-up made, vLLM and torch included: tens of ms
        return engine

    app = create_app(settings, opened)
    service: Service = app.state.service
    if settings.api_keys_file is not None:
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, reload_keys, app.state.keyring)
    config = uvicorn.Config(
        app,
        http=protocol(settings.read_timeout_s),
        log_config=None,
        access_log=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=math.ceil(settings.grace_period_s),
    )
    server = Server(config, service)
    if links := service_links(os.environ):
        _logger.info("not settings, but links to services (a pod's enableServiceLinks: false): %s", ", ".join(links))
    _logger.info("settings: %s", json.dumps(settings.redacted()))
    _logger.info("listening on http://%s:%d", *listener.getsockname()[:2])
    async with _operators_served(settings, app):
        await server.serve(sockets=[listener])
    if service.failure is not None:
        raise service.failure


@asynccontextmanager
async def _operators_served(settings: Settings, app: FastAPI) -> AsyncGenerator[None, None]:
    """Serve the operators' port, if there is one, for as long as the clients'. Raises SettingsError."""
    if settings.admin_port is None:
        yield
        return
    listener = bind(settings, "admin_")
    config = uvicorn.Config(
        create_operators_app(settings, app),
        http=protocol(settings.read_timeout_s),
        log_config=None,
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    server = OperatorsServer(config)
    _logger.info("operators: listening on http://%s:%d", *listener.getsockname()[:2])
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        yield
    finally:
        server.should_exit = True
        await serving


def reload_keys(keyring: Keyring) -> None:
    """Take the keys file as it is now; one that cannot be read changes nothing."""
    try:
        keyring.reload()
    except SettingsError as exc:
        _logger.error("the API keys were not reloaded, the old ones stay: %s", exc)
    else:
        _logger.info("%d API keys reloaded", len(keyring))
