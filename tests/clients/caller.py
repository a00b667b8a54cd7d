"""`Client` and `AsyncClient` called the same way, and the handlers they meet in the server's stead."""

import asyncio
from collections.abc import Callable
from typing import Any, Unpack

import httpx2

from slhf import (
    AsyncClient,
    Client,
    Conversation,
    ModelCard,
    Options,
    RefineRequest,
    RefineResponse,
)
from tests.clients.fakes import answer

Handler = Callable[[httpx2.Request], httpx2.Response]


class Caller:
    """One of the two clients, called the same way; `waits` are the seconds it would have slept."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.waits: list[float] = []
        self.settings: dict[str, Any] = {}

    def refine(self, conversation: Conversation, **options: Unpack[Options]) -> RefineResponse:
        if self.kind == "sync":
            with self._sync() as client:
                return client.refine(conversation, **options)

        async def run() -> RefineResponse:
            async with self._async() as client:
                return await client.refine(conversation, **options)

        return asyncio.run(run())

    def models(self) -> list[ModelCard]:
        if self.kind == "sync":
            with self._sync() as client:
                return client.models()

        async def run() -> list[ModelCard]:
            async with self._async() as client:
                return await client.models()

        return asyncio.run(run())

    def _sync(self) -> Client:
        return Client(_sleep=self.waits.append, **self.settings)

    def _async(self) -> AsyncClient:
        async def sleep(seconds: float) -> None:
            self.waits.append(seconds)

        return AsyncClient(_sleep=sleep, **self.settings)


def good(request: httpx2.Request) -> httpx2.Response:
    return httpx2.Response(200, json=answer(RefineRequest.model_validate_json(request.content)).model_dump())


def bad(status: int, code: str | None = None, **headers: str) -> Handler:
    body = {"error": {"message": "no", "type": "some_error", "param": None, "code": code}}
    return lambda request: httpx2.Response(status, json=body, headers=headers)


def broken(error: type[httpx2.RequestError]) -> Handler:
    def handler(request: httpx2.Request) -> httpx2.Response:
        raise error("it broke")

    return handler


def in_turn(caller: Caller, *handlers: Handler) -> list[httpx2.Request]:
    """Let the caller's client meet one handler after the other; the list fills with the requests it sends."""
    sent: list[httpx2.Request] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        sent.append(request)
        return handlers[len(sent) - 1](request)

    caller.settings["transport"] = httpx2.MockTransport(handler)
    return sent
