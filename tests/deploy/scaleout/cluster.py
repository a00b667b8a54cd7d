"""Runs in Ray's environment: deploy/ray/slhf_ray.py on a local cluster, with the fake model in the engine's place.

A round takes ROUND_S; its text is the replica's process id. A replica appends its access log to `access` in the folder
REPLICAS. With `"engine": true` it is the real engine, and a replica
leaves a file named by its process id in the folder REPLICAS. Each line on standard input, `{"port", "replicas",
"settings", "metrics_port"}`, is deployed, and answered by a line `{"deployed_s"}`; the input's end ends the cluster.
"""

import json
import logging
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import ray
from fastapi import FastAPI
from ray import serve
from slhf_ray import Arguments, Replica, application

from slhf_server.loading.start import open_vllm
from slhf_server.models.base import OwnEngine, Turn
from slhf_server.models.fake import FakeEngine
from slhf_server.observability.logs import JSONFormatter
from slhf_server.service import OpenEngine
from slhf_server.settings.server import Settings

ROUND_S = 0.05


def process_id(turns: Sequence[Turn]) -> str:
    return str(os.getpid())


async def open_fake(settings: Settings) -> FakeEngine:
    return FakeEngine(process_id, token_seconds=ROUND_S)


class FakeReplica(Replica):
    open_engine: ClassVar[OpenEngine] = staticmethod(open_fake)

    def __serve_build_asgi_app__(self) -> FastAPI:
        app = super().__serve_build_asgi_app__()
        lines = logging.FileHandler(Path(os.environ["REPLICAS"]) / "access")
        lines.setFormatter(JSONFormatter())
        access = logging.getLogger("slhf_server.access")
        access.addHandler(lines)
        access.setLevel(logging.INFO)  # whatever the level of the rest
        return app


async def open_real(settings: Settings) -> OwnEngine:
    (Path(os.environ["REPLICAS"]) / str(os.getpid())).touch()
    return await open_vllm(settings)


class RealReplica(Replica):
    open_engine: ClassVar[OpenEngine] = staticmethod(open_real)


def deploy(replicas: int, settings: dict[str, object], metrics_port: int, engine: bool = False) -> None:
    arguments = Arguments(settings=settings, metrics_port=metrics_port)
    options = {"num_replicas": replicas, "max_ongoing_requests": 64, "ray_actor_options": {"num_cpus": 0}}
    serve.run(
        application(RealReplica if engine else FakeReplica, arguments, **options), name="slhf", route_prefix="/fake"
    )


def main() -> None:
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # Ray prints there too
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, configure_logging=False)
    for line in sys.stdin:
        order = json.loads(line)
        serve.start(http_options={"host": "127.0.0.1", "port": order.pop("port")})
        started = time.monotonic()
        deploy(**order)
        answers.write(json.dumps({"deployed_s": time.monotonic() - started}) + "\n")
        answers.flush()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
