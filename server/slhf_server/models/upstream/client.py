"""An OpenAI-compatible endpoint as a chat model.

An attempt asks the upstream once: `attempts.py` admits and judges it, `dialect.py` makes the request, `events.py` and
`answer.py` read what comes back, `failures.py` translates whatever goes wrong. `Upstream.stream` makes attempts until
one succeeds, as long as no answer has begun.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing

import httpx2

from slhf.turns import OPEN_THOUGHT
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.upstream.answer import Completion
from slhf_server.models.upstream.attempts import (
    Endpoint,
    Patience,
    Progress,
    encoded,
    json_values,
    status_error,
)
from slhf_server.models.upstream.connection import connect
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.models.upstream.dialect import Dialect, Request
from slhf_server.models.upstream.failures import Failure, failure
from slhf_server.settings.endpoints import UpstreamSettings


class Upstream:
    """Implements `ChatModel`."""

    def __init__(
        self,
        label: str,
        settings: UpstreamSettings,
        metrics: UpstreamMetrics,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        random: Callable[[], float] = random.random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`label` names the upstream in the configuration, in metrics and in messages. Raises SettingsError."""
        self.label = label
        self.name = settings.model
        self._settings = settings
        self._dialect = Dialect(label, settings)
        self._operators = {"model", *settings.extra_body}
        client = connect(f"upstreams.{label}", str(settings.base_url), settings)
        patience = Patience(sleep, random, clock)
        self._endpoint = Endpoint("upstream", label, settings, client, metrics, patience)

    @property
    def answered(self) -> bool:
        """Whether the upstream has answered once since the server started."""
        return self._endpoint.answered

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        request = self._dialect.request(turns, sampling, deltas)
        attempt = 0
        while True:
            try:
                async with self._endpoint.place(), aclosing(self._attempt(request)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except Failure as failed:
                if (simpler := self._dialect.simpler(request, failed.refusal)) is not None:
                    request = simpler  # it is asked again at once: the upstream is well, and has said what it wants
                    continue
                pause = self._endpoint.pause(failed, attempt)
                if pause is None:
                    raise failed.error from failed.__cause__
            attempt += 1
            await self._endpoint.rest(pause)

    async def probe(self) -> bool:
        """Whether the upstream answers now, with anything but a refusal of the key, a redirect or its own error."""
        return await self._endpoint.probe()

    async def await_answer(self) -> None:
        """Probe until the upstream has answered once."""
        await self._endpoint.await_answer()

    async def close(self) -> None:
        await self._endpoint.close()

    async def _attempt(self, request: Request) -> AsyncGenerator[Chunk, None]:
        """Ask once, and yield the answer's chunks. Raises Failure."""
        content = encoded(request.body)
        completion = Completion(self.label)

        def translate(exc: Exception, begun: bool) -> Failure:
            return failure(self._endpoint.who, exc, request, self._operators, begun=begun)

        with self._endpoint.attempt(translate) as progress:
            async with self._endpoint.client.stream("POST", "chat/completions", content=content) as response:
                if not response.is_success:
                    raise await status_error(response)
                progress.begun = True
                self._dialect.accepted(request)
                if self._settings.opens_thought:
                    yield Chunk(OPEN_THOUGHT, 0)
                async with aclosing(_chunks(response, completion, progress)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            last = completion.last()
        yield last


async def _chunks(response: httpx2.Response, completion: Completion, progress: Progress) -> AsyncGenerator[Chunk, None]:
    """Yield the pieces of text as they come. An answer that breaks off after its finish reason is whole."""
    try:
        async with aclosing(json_values(response, progress)) as pieces:
            async for values in pieces:
                for chunk in completion.chunks(values):
                    yield chunk
    except httpx2.HTTPError:
        if not completion.finished:
            raise
