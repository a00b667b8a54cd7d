"""`Client` and `AsyncClient`: the refinement server from Python.

Both take the same arguments and raise the exceptions of `slhf.errors`; what they have in common is in `slhf._exchange`.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from typing import Any, Self, Unpack
from urllib.parse import quote

import httpx2

from slhf._exchange import (
    Conversation,
    EventReader,
    Options,
    Reply,
    exchange,
    parsed,
    refine_body,
    refine_request,
    transport_error,
)
from slhf.cards import ModelCard, ModelList
from slhf.connection import DEFAULT_TIMEOUT, http_settings
from slhf.verdicts import Ballot, PreferenceList, ShadowReport, Vote, VoteRequest
from slhf.wire import Event, RefineResponse


def _refine_call(conversation: Conversation, options: Options, *, stream: bool) -> dict[str, Any]:
    body = refine_body(refine_request(conversation, options, stream=stream))
    return {"method": "POST", "url": "/v1/refine", "content": body, "headers": {"Content-Type": "application/json"}}


def _vote_call(refinement: str, vote: Ballot, a: int, b: int | None) -> dict[str, Any]:
    body = VoteRequest(id=refinement, vote=vote, a=a, b=b).model_dump_json(exclude_none=True)
    return {"method": "POST", "url": "/v1/votes", "content": body, "headers": {"Content-Type": "application/json"}}


def _preferences_call(model: str, after: str | None) -> dict[str, Any]:
    params = {} if after is None else {"after": after}
    return {"method": "GET", "url": f"/v1/preferences/{quote(model)}", "params": params}


class Client:
    """A connection to one refinement server; close it, or use it as a context manager.

    `base_url` is SLHF_BASE_URL by default, else http://127.0.0.1:8000. `api_key` is SLHF_API_KEY by default; an empty
    one is not sent. `timeout` is in seconds without a byte from the server. `max_retries` counts the attempts that may
    follow a failed connection, 429 or 503. `transport` is an httpx2 transport, such as a fake one. Proxies and
    certificates come from the environment (HTTP_PROXY, HTTPS_PROXY, ALL_PROXY, NO_PROXY, SSL_CERT_FILE, SSL_CERT_DIR).
    Raises ConfigurationError for what cannot be used.
    """

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx2.BaseTransport | None = None,
        _sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        settings = http_settings(base_url, api_key, timeout, own_transport=transport is not None)
        self._http = httpx2.Client(transport=transport, **settings)
        self._max_retries = max_retries
        self._sleep = _sleep

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections to the server."""
        self._http.close()

    def refine(self, conversation: Conversation, **options: Unpack[Options]) -> RefineResponse:
        """Improve `draft`, or what the Leader drafts, and return the answer with every round.

        Raises ValueError for an option that the contract does not know, InputError for text that JSON cannot hold,
        APIError for an error that the server answers, and TransportError when no complete answer comes.
        """
        request = self._http.build_request(**_refine_call(conversation, options, stream=False))
        return parsed(RefineResponse, self._send(request))

    def stream(self, conversation: Conversation, **options: Unpack[Options]) -> Generator[Event]:
        """Yield the events of a refinement as they happen; the last one is `RefinementCompleted`, with the answer.

        Raises what `refine` raises, APIError for an `error` event too, and TransportError when the stream breaks off.
        """
        request = self._http.build_request(**_refine_call(conversation, options, stream=True))
        with contextlib.closing(self._send(request, stream=True)) as response:
            reader = EventReader(response)
            try:
                for chunk in response.iter_bytes():
                    yield from reader.feed(chunk)
                    if reader.complete:
                        return
            except httpx2.RequestError as exc:
                raise transport_error(exc) from exc
            raise reader.cut_short()

    def models(self) -> list[ModelCard]:
        """The models that the server serves, the default one first. Raises APIError or TransportError."""
        return parsed(ModelList, self._send(self._http.build_request("GET", "/v1/models"))).data

    def vote(self, refinement: str, vote: Ballot, *, a: int = 0, b: int | None = None) -> Vote:
        """Say which of two rounds of a refinement is better, by the `id` of its answer; the last vote counts.

        `a` and `b` are rounds; 0 is the draft, and None the round that was returned or, where that is the draft, the
        latest one with another text. Raises APIError, 404 for a refinement that the server does not remember and 400
        where there is nothing to compare, or TransportError.
        """
        return parsed(Vote, self._send(self._http.build_request(**_vote_call(refinement, vote, a, b))))

    def shadow(self, model: str) -> ShadowReport:
        """What the verdicts on a served model say so far. Raises APIError or TransportError."""
        return parsed(ShadowReport, self._send(self._http.build_request("GET", f"/v1/shadow/{quote(model)}")))

    def preferences(self, model: str, *, after: str | None = None) -> PreferenceList:
        """A page of pairs of texts of which one was better; `after` is the `last_id` of the page before it.

        Raises APIError or TransportError.
        """
        return parsed(PreferenceList, self._send(self._http.build_request(**_preferences_call(model, after))))

    def _send(self, request: httpx2.Request, *, stream: bool = False) -> httpx2.Response:
        attempts = exchange(self._max_retries)
        wait = next(attempts)
        while True:
            if wait:
                self._sleep(wait)
            try:
                wait = attempts.send(self._attempt(request, stream))
            except StopIteration as end:
                response: httpx2.Response = end.value
                return response

    def _attempt(self, request: httpx2.Request, stream: bool) -> Reply:
        try:
            response = self._http.send(request, stream=stream)
            if not response.is_success:
                response.read()
        except httpx2.RequestError as exc:
            return exc
        return response


class AsyncClient:
    """`Client` for asyncio, with the same arguments."""

    def __init__(
        self,
        base_url: str | None = None,
        api_key: str | None = None,
        *,
        timeout: float = DEFAULT_TIMEOUT,
        max_retries: int = 2,
        transport: httpx2.AsyncBaseTransport | None = None,
        _sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        settings = http_settings(base_url, api_key, timeout, own_transport=transport is not None)
        self._http = httpx2.AsyncClient(transport=transport, **settings)
        self._max_retries = max_retries
        self._sleep = _sleep

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close all connections to the server."""
        await self._http.aclose()

    async def refine(self, conversation: Conversation, **options: Unpack[Options]) -> RefineResponse:
        """Do as `Client.refine` does."""
        request = self._http.build_request(**_refine_call(conversation, options, stream=False))
        return parsed(RefineResponse, await self._send(request))

    async def stream(self, conversation: Conversation, **options: Unpack[Options]) -> AsyncGenerator[Event]:
        """Do as `Client.stream` does; `contextlib.aclosing` ends it early."""
        request = self._http.build_request(**_refine_call(conversation, options, stream=True))
        async with contextlib.aclosing(await self._send(request, stream=True)) as response:
            reader = EventReader(response)
            try:
                async for chunk in response.aiter_bytes():
                    for event in reader.feed(chunk):
                        yield event
                    if reader.complete:
                        return
            except httpx2.RequestError as exc:
                raise transport_error(exc) from exc
            raise reader.cut_short()

    async def models(self) -> list[ModelCard]:
        """Do as `Client.models` does."""
        return parsed(ModelList, await self._send(self._http.build_request("GET", "/v1/models"))).data

    async def vote(self, refinement: str, vote: Ballot, *, a: int = 0, b: int | None = None) -> Vote:
        """Do as `Client.vote` does."""
        return parsed(Vote, await self._send(self._http.build_request(**_vote_call(refinement, vote, a, b))))

    async def shadow(self, model: str) -> ShadowReport:
        """Do as `Client.shadow` does."""
        return parsed(ShadowReport, await self._send(self._http.build_request("GET", f"/v1/shadow/{quote(model)}")))

    async def preferences(self, model: str, *, after: str | None = None) -> PreferenceList:
        """Do as `Client.preferences` does."""
        return parsed(PreferenceList, await self._send(self._http.build_request(**_preferences_call(model, after))))

    async def _send(self, request: httpx2.Request, *, stream: bool = False) -> httpx2.Response:
        attempts = exchange(self._max_retries)
        wait = next(attempts)
        while True:
            if wait:
                await self._sleep(wait)
            try:
                wait = attempts.send(await self._attempt(request, stream))
            except StopIteration as end:
                response: httpx2.Response = end.value
                return response

    async def _attempt(self, request: httpx2.Request, stream: bool) -> Reply:
        try:
            response = await self._http.send(request, stream=stream)
            if not response.is_success:
                await response.aread()
        except httpx2.RequestError as exc:
            return exc
        return response
