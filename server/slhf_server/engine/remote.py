"""The bundle's two roles on a vLLM server that is not in this process.

Prompts go there as token ids and answers come back as such, so all that holds of a prompt in process holds there.
Breaker, pauses and failures are those of upstreams (models/upstream/). Closing a completion's generator closes its
connection, which aborts it over there.
"""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2

from slhf import Bundle
from slhf_server.engine.completion import Completion
from slhf_server.engine.completions_api import OURS, Answer, request_body
from slhf_server.engine.handshake import handshake
from slhf_server.engine.options import room_for
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.replicas import Replicas
from slhf_server.errors import BadRequest, EngineUnavailable, UpstreamUnavailable
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.comparing import comparing
from slhf_server.models.requirements.running import Sandbox
from slhf_server.models.upstream.answer import Unfinished
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
from slhf_server.models.upstream.dialect import Request
from slhf_server.models.upstream.failures import Failure, failure
from slhf_server.settings.endpoints import RemoteEngineSettings
from slhf_server.settings.problem import SettingsError

_logger = logging.getLogger(__name__)


class RemoteEngine:
    """Implements `RemoteEngine` (models/base.py)."""

    def __init__(
        self,
        label: str,
        settings: RemoteEngineSettings,
        manifest: Bundle,
        encoder: PromptEncoder,
        metrics: UpstreamMetrics,
        patience: Patience | None = None,
        sandbox: Sandbox | None = None,
    ) -> None:
        """`label` is its name in the settings. Raises SettingsError."""
        self.manifest = manifest
        self.calls_tools, self.template_options = False, ()
        self._label = label
        self._settings = settings
        self.tokenizer = self._encoder = encoder
        self._lengths: dict[Endpoint, int] = {}
        self._replicas = Replicas(_endpoints(label, settings, metrics, patience or Patience()), settings.max_retries)
        adapted = settings.adapter or settings.model
        led_by = adapted if manifest.leader == manifest.follower else settings.model
        self.leader = RemoteRole(self, self._replicas, encoder, led_by)
        follower = RemoteRole(self, self._replicas, encoder, adapted, settings.priority)
        self.follower = comparing(self.leader, follower, manifest, sandbox)

    @property
    def max_model_len(self) -> int:
        """The shortest context of its servers. Raises EngineUnavailable until one has answered."""
        self.check()
        return min(self._lengths.values())

    def check(self) -> None:
        if not self._lengths:
            raise EngineUnavailable(f"the engine {self._label!r} has not answered yet")

    def shutdown(self) -> None:
        """There is no process of ours."""

    async def await_answer(self) -> None:
        """Ask each server until it has answered. Raises SettingsError where the first that answers does not fit."""
        try:
            async with asyncio.TaskGroup() as group:
                for endpoint in self._replicas.endpoints:
                    group.create_task(endpoint.await_answer(partial(self._accepts, endpoint)))
        except ExceptionGroup as failed:
            raise failed.exceptions[0] from None

    async def close(self) -> None:
        for endpoint in self._replicas.endpoints:
            await endpoint.close()

    async def _accepts(self, endpoint: Endpoint, response: httpx2.Response) -> bool:
        cards = await response.aread()
        if not response.is_success:
            _logger.warning("%s is not ready: HTTP %d", endpoint.logged, response.status_code)
            return False
        try:
            length = await handshake(self._label, self._settings, self._encoder, endpoint.client, cards)
        except SettingsError as exc:
            if not self._lengths:
                raise
            _logger.error("%s is not asked: %s", endpoint.logged, exc)  # the others go on
            return False
        self._lengths[endpoint] = length
        _logger.info("%s: context %d tokens", endpoint.logged, length)
        return True


@dataclass(frozen=True, slots=True)
class RemoteRole:
    """Implements `ChatModel` for one role on the engine."""

    engine: RemoteEngine
    replicas: Replicas
    encoder: PromptEncoder
    model: str
    """What the server calls the role's weights."""
    priority: int = 0
    """Added to a request's own."""

    @property
    def name(self) -> str:
        return self.engine.manifest.name

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        limit = self.engine.max_model_len
        ids = await self.encoder.encode_beside(turns, limit)
        defaults = self.engine.manifest.sampling.model_dump(exclude_none=True)
        room = room_for(len(ids), sampling, limit)
        priority = sampling.priority + self.priority
        body = request_body(self.model, ids, sampling, defaults, room, priority=priority, deltas=deltas)
        refinement = request_id.partition("-")[0]
        failed: list[Endpoint] = []
        while True:
            endpoint = self.replicas.choose(refinement, failed)
            try:
                async with endpoint.place(), aclosing(self._attempt(endpoint, body, sampling)) as chunks:
                    async for chunk in chunks:
                        yield chunk
                return
            except Failure as exc:
                attempt = len(failed)
                failed.append(endpoint)
                pause = self.replicas.pause(exc, endpoint, failed, attempt)
                if pause is None:
                    raise exc.error from exc.__cause__
            await endpoint.rest(pause)

    async def _attempt(
        self, endpoint: Endpoint, body: Mapping[str, Any], sampling: SamplingParams
    ) -> AsyncGenerator[Chunk, None]:
        """Ask once, and yield the answer's chunks. Raises Failure."""
        answer = Answer(body["prompt"], sampling, self.encoder)
        completion = Completion(self.encoder, sampling, self.encoder.opens_thought(body["prompt"]))
        content = encoded(body)
        ours = OURS - {"priority"} if sampling.priority else OURS
        with endpoint.attempt(partial(_failure, endpoint.who, body, ours)) as progress:
            async with endpoint.client.stream("POST", "completions", content=content) as response:
                if not response.is_success:
                    raise await status_error(response)
                async with aclosing(_chunks(response, answer, completion, progress)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            last = answer.last()
        yield completion.chunk(last)


async def _chunks(
    response: httpx2.Response, answer: Answer, completion: Completion, progress: Progress
) -> AsyncGenerator[Chunk, None]:
    """Yield the pieces as they come. An answer that breaks off after its finish reason is whole."""
    try:
        async with aclosing(json_values(response, progress)) as events:
            async for values in events:
                for piece in answer.pieces(values):
                    progress.begun = progress.begun or bool(piece.token_ids)
                    yield completion.chunk(piece)
    except httpx2.HTTPError:
        if not answer.finished:
            raise


def _endpoints(
    label: str, settings: RemoteEngineSettings, metrics: UpstreamMetrics, patience: Patience
) -> list[Endpoint]:
    """One for each address; several are told apart by their numbers."""
    made = []
    for number, url in enumerate(settings.base_url):
        name = label if len(settings.base_url) == 1 else f"{label}/{number}"
        client = connect(f"remote_engines.{label}", str(url), settings)
        made.append(Endpoint("engine", name, settings, client, metrics, patience))
    return made


def _failure(who: str, body: Mapping[str, Any], ours: frozenset[str], exc: Exception, begun: bool) -> Failure:
    """What went wrong, by upstreams' rules but for two: an answer that ends before its first token may be asked for
    again, and a grammar is what the client calls `response_format`. `ours`: fields in which the client has no part."""
    empty = isinstance(exc, json.JSONDecodeError) and not exc.doc
    if (empty or isinstance(exc, Unfinished)) and not begun:
        return Failure("connection", UpstreamUnavailable(f"{who} broke off before its answer"), retryable=True)
    failed = failure(who, exc, Request(body, ours, "max_tokens"), ours, begun=begun)
    if isinstance(failed.error, BadRequest) and failed.error.param == "structured_outputs":
        failed.error = BadRequest(f"{who} refused 'response_format' as the request has it", param="response_format")
    return failed
