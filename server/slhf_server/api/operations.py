"""The endpoints for operators and load balancers: models, health, readiness, version, metrics."""

from importlib.metadata import version
from pathlib import Path

from fastapi import APIRouter, Request, Response
from fastapi.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route

from slhf import Bundle
from slhf.bundle import BUILTIN_PREFIX
from slhf.cards import ModelCard, ModelList
from slhf_server.api.dependencies import RunningService
from slhf_server.api.error_handlers import errors

router = APIRouter()


def _description(request: Request) -> Response:
    """Answer `/openapi.json` as FastAPI does, but in a thread, because the first time takes a third of a second."""
    document = request.app.openapi()
    prefix = request.scope.get("root_path", "").rstrip("/")
    return JSONResponse(document | {"servers": [{"url": prefix}]} if prefix else document)


DESCRIPTION = Route("/openapi.json", _description, include_in_schema=False)


@router.get("/v1/models", responses=errors(401, 429, 500, 503))
async def models(request: Request, service: RunningService) -> ModelList:
    planner = service.planner()
    return ModelList(data=[planner.card(name, created=request.app.state.started) for name in planner.names])


@router.get("/v1/models/{name:path}", responses=errors(401, 404, 429, 500, 503))
async def model(name: str, request: Request, service: RunningService) -> ModelCard:
    return service.planner().card(name, created=request.app.state.started)


@router.get("/health")
async def health() -> dict[str, str]:
    """200 while the process is alive; no model is touched."""
    return {"status": "ok"}


@router.get("/ready", responses=errors(503))
async def ready(service: RunningService) -> dict[str, str]:
    """200 once the Follower is loaded and each upstream has answered, and for as long as the engine lives."""
    service.ready()
    return {"status": "ready"}


@router.get("/version")
async def build(service: RunningService) -> dict[str, str | None]:
    spec, manifest = service.bundle
    return {
        "version": version("slhf-server"),
        "bundle": _bundle_name(spec, manifest),
        "revision": None if manifest is None else manifest.revision,
    }


def _bundle_name(spec: str, manifest: Bundle | None) -> str | None:
    """What the settings name, but never a path: for a directory its manifest's name, or None until it is read."""
    if spec.startswith(BUILTIN_PREFIX):
        return spec
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1 or Path(spec).is_dir():
        return None if manifest is None else manifest.name
    return spec


@router.get("/metrics", response_class=PlainTextResponse)
async def metrics(service: RunningService) -> Response:
    return Response(service.metrics.page(), media_type="text/plain; version=0.0.4; charset=utf-8")
