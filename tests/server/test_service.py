"""The service's watch over the engine, with the fake one."""

import asyncio
import socket

import uvicorn

from slhf_server.app import create_app
from slhf_server.cli import Server
from slhf_server.errors import EngineUnavailable
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings


def test_a_server_whose_engine_dies_ends_by_itself_and_knows_why() -> None:
    engine = FakeEngine()
    app = create_app(Settings(port=0), engine.open)
    service = app.state.service
    server = Server(uvicorn.Config(app, log_config=None), service)
    engine.dead = True
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asyncio.run(asyncio.wait_for(server.serve(sockets=[listener]), 30))
    assert isinstance(service.failure, EngineUnavailable)
    assert engine.was_shut_down
