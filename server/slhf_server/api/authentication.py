"""Asks for API keys before the body is read: whose request it is, and whether that key has a place left."""

from contextlib import ExitStack

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from slhf_server.access.keys import Keyring
from slhf_server.api.error_handlers import error_response
from slhf_server.api.route import OPEN, is_open
from slhf_server.errors import RequestError


class Authentication:
    """Lets requests through that bring a key of the ring; its place is held until the response has been sent.

    Only the open routes need no key: a cluster's probes and scrapers call them without secrets, as they do with vLLM.
    """

    def __init__(self, app: ASGIApp, keyring: Keyring, open_routes: frozenset[str] = OPEN) -> None:
        self._app = app
        self._keyring = keyring
        self._open_routes = open_routes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" or is_open(scope, self._open_routes):
            return await self._app(scope, receive, send)
        with ExitStack() as held:
            try:
                key = self._keyring.key_of(*_presented(Headers(scope=scope)))
                scope["state"]["key"] = key
                scope["state"]["log"]["key"] = key.entry.name
                held.enter_context(key.place())
            except RequestError as exc:
                return await error_response(Request(scope), exc)(scope, receive, send)
            await self._app(scope, receive, send)


def _presented(headers: Headers) -> tuple[bytes, ...]:
    """OpenAI's way to send a key, and Anthropic's, which is read on every path too."""
    return tuple(headers.get(name, "").encode("latin-1") for name in ("authorization", "x-api-key"))
