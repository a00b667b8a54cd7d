"""Makes the application: routes, middleware, and the engine's life around them."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from slhf_server.access.keys import Keyring, OperatorsKeyring
from slhf_server.api import error_handlers, judgements, operations, refine, tokens
from slhf_server.api import operators as operators_port
from slhf_server.api.anthropic import count_tokens, messages
from slhf_server.api.authentication import Authentication
from slhf_server.api.middleware import BodyLimit, Envelope, HeaderLimit, LastResort
from slhf_server.api.openai import chat, completions, responses
from slhf_server.api.playground import page
from slhf_server.api.route import METRICS, OPEN, is_open
from slhf_server.loading.remote_engines import open_remote_engines
from slhf_server.loading.start import open_vllm
from slhf_server.service import OpenEngine, Service
from slhf_server.settings.server import Settings

_EXPOSED = (
    "X-Request-Id",
    "Request-Id",
    "Retry-After",
    "X-SLHF-Applied",
    "X-SLHF-Rounds",
    "X-SLHF-Stop-Reason",
    "X-SLHF-Duration-Ms",
    "X-SLHF-Overhead-Ms",
)
"""Headers of an answer that a page of another origin may read."""


def create_app(settings: Settings, open_engine: OpenEngine = open_vllm) -> FastAPI:
    """The server as an ASGI application. The engine is opened in the background: `/ready` tells when it is there.

    Raises SettingsError for API keys that cannot be read.
    """
    keyring = Keyring(settings)
    service = Service(settings, open_engine, open_remote_engines)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        service.start()
        yield
        await service.stop()
        await keyring.close()

    app = FastAPI(
        title="slhf-server",
        version=version("slhf-server"),
        lifespan=lifespan,
        redirect_slashes=False,  # else Starlette's answer is an absolute address, made of the Host header
        routes=[operations.DESCRIPTION],  # found before FastAPI's own
        strict_content_type=False,  # a JSON body without the header is read as JSON, as OpenAI and vLLM do
    )
    app.state.service = service
    app.state.keyring = keyring
    app.state.started = int(time.time())
    keyring.on_store_failure = service.metrics.limits_store_failed
    service.metrics.build(version("slhf-server"))
    if settings.metrics_by_key == "on":
        service.metrics.watch_keys(keyring)
    _wrap(app, settings, keyring)
    error_handlers.install(app)
    for part in (refine, chat, completions, responses, messages, count_tokens, tokens, judgements, operations):
        app.include_router(part.router)
    if settings.shows_playground:
        app.router.routes.extend(page.routes())
    return app


def create_operators_app(settings: Settings, app: FastAPI) -> FastAPI:
    """What the operators' port serves about the application, to whoever has their key."""
    operators = FastAPI(title="slhf-server, for operators", version=version("slhf-server"), redirect_slashes=False)
    operators.state.service = app.state.service
    operators.state.clients = app.state.keyring
    operators.add_middleware(BodyLimit, limit=settings.limits.body_bytes)
    operators.add_middleware(Authentication, keyring=OperatorsKeyring(settings), asks=lambda scope: True)
    operators.add_middleware(HeaderLimit)
    operators.add_middleware(LastResort)
    operators.add_middleware(Envelope, log_content=False, open_routes=frozenset())
    error_handlers.install(operators)
    operators.include_router(operators_port.router)
    return operators


def _wrap(app: FastAPI, settings: Settings, keyring: Keyring) -> None:
    """Add all middleware, from the inside out; a request meets it in the opposite order."""
    open_routes = OPEN | page.PATHS if settings.shows_playground else OPEN
    app.add_middleware(BodyLimit, limit=settings.limits.body_bytes)
    if keyring:
        app.add_middleware(Authentication, keyring=keyring, asks=lambda scope: not is_open(scope, open_routes))
    if settings.metrics_by_key == "on":  # it tells who the clients are
        operators = OperatorsKeyring(settings)
        app.add_middleware(Authentication, keyring=operators, asks=lambda scope: is_open(scope, METRICS))
    app.add_middleware(HeaderLimit)
    app.add_middleware(LastResort)
    if settings.cors_origins:  # around the refusals above: a page must be able to read them, and preflights have no key
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST"],
            allow_headers=["*"],
            expose_headers=_EXPOSED,
        )
    app.add_middleware(Envelope, log_content=settings.log_content, open_routes=open_routes)
