"""The application factory: routes, middleware, and the engine's life around them."""

import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI

from slhf_server.api import chat, completions, failures, operations, refine, responses
from slhf_server.api.middleware import BodyLimit, RequestId
from slhf_server.loading import open_vllm
from slhf_server.service import OpenEngine, Service
from slhf_server.settings import Settings


def create_app(settings: Settings, open_engine: OpenEngine = open_vllm) -> FastAPI:
    """The server as an ASGI application. The engine is opened in the background: `/ready` tells when it is there."""
    service = Service(settings, open_engine)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncGenerator[None, None]:
        service.start()
        yield
        await service.stop()

    app = FastAPI(
        title="slhf-server",
        version=version("slhf-server"),
        lifespan=lifespan,
        strict_content_type=False,  # a JSON body without the header is read as JSON, as OpenAI and vLLM do
    )
    app.state.service = service
    app.state.started = int(time.time())
    service.metrics.build(version("slhf-server"))
    app.add_middleware(BodyLimit, limit=settings.limits.body_bytes)
    app.add_middleware(RequestId)
    failures.install(app)
    for part in (refine, chat, completions, responses, operations):
        app.include_router(part.router)
    return app
