"""What endpoints are given besides their body: the running service."""

from typing import Annotated

from fastapi import Depends, Request

from slhf_server.service import Service


async def _service(request: Request) -> Service:  # a coroutine, because FastAPI calls others in a thread
    service: Service = request.app.state.service
    return service


RunningService = Annotated[Service, Depends(_service)]
