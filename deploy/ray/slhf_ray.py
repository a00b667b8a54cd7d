"""The server as a Ray Serve application: the same FastAPI application, with an engine of its own in each replica.

A refinement's rounds run in one process, so whichever replica Ray picks plays all of them. `serve deploy serve.yaml`,
or `serve run slhf_ray:app`.
"""

import asyncio
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI
from prometheus_client import REGISTRY, CollectorRegistry, start_http_server
from pydantic import BaseModel, ConfigDict, Field
from ray import serve

from slhf_server.app import create_app
from slhf_server.loading.start import open_vllm
from slhf_server.observability import logs
from slhf_server.observability.metrics import Metrics
from slhf_server.service import OpenEngine, Service
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings

_METRICS_PORTS = 16
"""Tried from `metrics_port` on: each replica of a host needs one of its own."""
_LAST_WORDS_S = 2.0
_logger = logging.getLogger("slhf_server.ray")


class Arguments(BaseModel):
    """`args` of an application in serve.yaml."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    settings: dict[str, Any] = {}
    """As in slhf-server's YAML file; a replica's `SLHF_*` variables win, and are for secrets. Of no effect are
    `host`, `port` and `grace_period_s`: Ray listens, and Ray waits."""
    metrics_port: int | None = Field(default=None, gt=0, le=65535)
    """Where a replica shows its /metrics (through Ray's proxy one would see any replica's); none: nowhere."""


class Replica:
    """One engine behind the server's own application."""

    open_engine: ClassVar[OpenEngine] = staticmethod(open_vllm)

    def __init__(self, arguments: Arguments) -> None:
        self.arguments = arguments
        self.service: Service

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Ray in the replica's process. Raises SettingsError, which `serve status` shows."""
        settings = read_settings(self.arguments.settings)
        logs.configure(settings.log_level, settings.log_format)
        app = create_app(settings, type(self).open_engine)
        self.service = app.state.service
        if self.arguments.metrics_port is not None:
            show_metrics(self.service.metrics, self.arguments.metrics_port)
        return app

    async def check_health(self) -> None:
        """Ray asks this before it sends a new replica requests, and every few seconds after."""
        await self.service.loading()
        if self.service.failure is not None:
            raise self.service.failure
        self.service.on_failure = self._end

    def _end(self) -> None:
        """The engine has died. A replica without one answers fastest and would draw all requests: make way at once."""
        self.service.drain(_LAST_WORDS_S)
        asyncio.get_running_loop().call_later(_LAST_WORDS_S, os._exit, 1)


def read_settings(settings: dict[str, Any]) -> Settings:
    """As slhf-server reads a file with them, with its messages. JSON is YAML whose text is in quotes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.yaml"
        file.write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
        return load_settings(["--config", str(file)])


def show_metrics(metrics: Metrics, first_port: int) -> None:
    """Our metrics and vLLM's, on the first port that is free."""
    both = CollectorRegistry()
    both.register(metrics.registry)
    both.register(REGISTRY)
    for port in range(first_port, first_port + _METRICS_PORTS):
        try:
            start_http_server(port, registry=both)
        except OSError:
            continue
        _logger.info("metrics on port %d", port)
        return
    raise OSError(f"metrics_port: no free port in {first_port}..{first_port + _METRICS_PORTS - 1}")


def application(replica: type[Replica], arguments: Arguments, **options: Any) -> serve.Application:
    """`options` are those of `serve.deployment`; serve.yaml sets its own, under the deployment's name `slhf`."""
    return serve.deployment(serve.ingress()(replica), name="slhf", **options).bind(arguments)


def app(args: Arguments) -> serve.Application:
    """What serve.yaml imports."""
    return application(Replica, args)
