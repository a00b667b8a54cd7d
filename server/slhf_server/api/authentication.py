"""Asks for API keys before the body is read: whose request it is, and whether that key has a place left."""

from collections.abc import Callable
from contextlib import AsyncExitStack

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from slhf_server.access.keys import Keyring
from slhf_server.api.error_handlers import error_response
from slhf_server.errors import RequestError
from slhf_server.refinement.request_log import RequestLog


class Authentication:
    """Lets requests through that bring a key of the ring; its place is held until the response has been sent, and what
    the request has spent is then booked on it."""

    def __init__(self, app: ASGIApp, keyring: Keyring, asks: Callable[[Scope], bool]) -> None:
        """`asks`: whether a request needs a key."""
        self._app = app
        self._keyring = keyring
        self._asks = asks

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or not self._asks(scope):
            return await self._app(scope, receive, send)
        log: RequestLog = scope["state"]["log"]
        async with AsyncExitStack() as held:
            try:
                key = self._keyring.key_of(*_presented(Headers(scope=scope)))
                scope["state"]["key"], log["key"] = key, key.entry.name
                await held.enter_async_context(self._keyring.place(key))
            except RequestError as exc:
                return await error_response(Request(scope), exc)(scope, receive, send)
            try:
                await self._app(scope, receive, send)
            finally:
                await self._keyring.book(key, log.get("prompt_tokens", 0), log.get("completion_tokens", 0))


def _presented(headers: Headers) -> tuple[bytes, ...]:
    """OpenAI's way to send a key, and Anthropic's, which is read on every path too."""
    return tuple(headers.get(name, "").encode("latin-1") for name in ("authorization", "x-api-key"))
