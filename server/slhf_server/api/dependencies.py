"""What endpoints are given besides their body: the running service, and what separates their key's cache."""

from typing import Annotated

from fastapi import Depends, Request

from slhf_server.service import Service


async def _service(request: Request) -> Service:  # a coroutine, because FastAPI calls others in a thread
    service: Service = request.app.state.service
    return service


async def _cache_salt(request: Request) -> str | None:
    """Of the request's key; None: its cache is everybody's."""
    salt: str | None = request.app.state.keyring.cache_salt(request.state.log.get("key"))
    return salt


RunningService = Annotated[Service, Depends(_service)]
CacheSalt = Annotated[str | None, Depends(_cache_salt)]
