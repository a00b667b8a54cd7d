"""A vLLM server as far as a remote engine knows it: a real HTTP server that answers by ids, or fails as told.

Its answers have the shape that vLLM 0.32's `/v1/models` and `/v1/completions` have; tests/engine/test_remote_engine.py
asks the real one.
"""

import asyncio
import json
import threading
from collections.abc import AsyncGenerator, Callable, Iterator, Sequence
from contextlib import aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from slhf import Bundle
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.remote import RemoteEngine
from slhf_server.errors import EngineUnavailable
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.upstream.attempts import Patience
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY
from slhf_server.settings.endpoints import RemoteEngineSettings
from tests.server.models.upstream.faulty import Asked, Faulty, Reply, _read, says, streams

Answer = Callable[[Asked], Reply]
MODELS = {"object": "list", "data": [{"id": "base", "max_model_len": 512}, {"id": "slhf", "parent": "base"}]}
ASK = (Turn("user", "What is 2 + 2?"),)


class VLLMStub(Faulty):
    """It introduces itself by `models` and the encoder's ids, and answers all else by `answers`, the last one again."""

    def __init__(self, encoder: PromptEncoder, *answers: Answer, models: Any = MODELS) -> None:
        super().__init__()
        self.encoder = encoder
        self.answers = list(answers)
        self.models: Reply = models if callable(models) else says(models)
        self.handshakes = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await self._count(+1)
        try:
            asked = await _read(reader)
            if asked.line.startswith("GET"):
                await self.models(reader, writer)
            elif not asked.body.get("stream"):
                self.handshakes += 1
                await says(self.introduced(asked.body))(reader, writer)
            else:
                answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
                async with self._changed:
                    self.asked.append(asked)
                    self._changed.notify_all()
                await answer(asked)(reader, writer)
            writer.close()
        except (ConnectionError, asyncio.IncompleteReadError):
            writer.close()
        finally:
            await self._count(-1)

    def introduced(self, body: Any) -> Any:
        """With `echo` the prompt's text stands before what was written; ids come where they are asked for."""
        text = self.encoder.decode(body["prompt"]) if body.get("echo") else ""
        ids = {"token_ids": [5], "prompt_token_ids": body["prompt"]} if body.get("return_token_ids") else {}
        return {"choices": [{"index": 0, "text": f"{text}!", "finish_reason": "length", **ids}]}


def piece(text: str, ids: Sequence[int], **more: Any) -> dict[str, Any]:
    choice = {"index": 0, "text": text, "logprobs": None, "finish_reason": None, "stop_reason": None, **more}
    return {"object": "text_completion", "choices": [choice | {"token_ids": list(ids)}]}


def usage(cached: int = 0, **more: Any) -> dict[str, Any]:
    return {"choices": [], "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": cached}}, **more}


def events(encoder: PromptEncoder, prompt: Sequence[int], *texts: str, end: bool = True) -> list[Any]:
    """One event for each text, with its ids, then the end-of-text token, as vLLM streams them."""
    made = [piece(text, encoder.encode_text(text)) for text in texts]
    made += [piece("", [2], finish_reason="stop")] if end else []
    made[0]["choices"][0]["prompt_token_ids"] = list(prompt)
    return made


def writes(encoder: PromptEncoder, *texts: str, cached: int = 0) -> Answer:
    """A good answer."""
    return lambda asked: streams(*events(encoder, asked.body["prompt"], *texts), usage(cached))


def always(reply: Reply) -> Answer:
    return lambda _: reply


@dataclass
class Stage:
    """A remote engine in front of stubs, with a clock and a sleep that the test holds."""

    encoder: PromptEncoder
    servers: Sequence[VLLMStub]
    manifest: Bundle = field(default_factory=lambda: Bundle(name="tiny"))
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    slept: list[float] = field(default_factory=list)
    now: float = 1000.0

    def build(self, **settings: Any) -> "RemoteEngine":
        given = {"base_url": [server.url for server in self.servers], "model": "base", "tokenizer": "t"} | settings
        counters = UpstreamMetrics(self.metrics, LATENCY)
        patience = Patience(self._sleep, lambda: 1.0, lambda: self.now)
        made = RemoteEngineSettings.model_validate(given)
        self.engine = RemoteEngine("gpu", made, self.manifest, self.encoder, counters, patience)
        return self.engine

    @property
    def is_ready(self) -> bool:
        try:
            self.engine.check()
        except EngineUnavailable:
            return False
        return True

    async def ask(
        self,
        turns: Sequence[Turn] = ASK,
        sampling: SamplingParams | None = None,
        *,
        run: str = "r",
        deltas: bool = True,
    ) -> list[Chunk]:
        stream = self.engine.follower.stream(turns, sampling or SamplingParams(), request_id=f"{run}-1", deltas=deltas)
        async with aclosing(stream) as chunks:
            return [chunk async for chunk in chunks]

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.get_sample_value(metric, {"upstream": "gpu"} | labels) or 0.0

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        await asyncio.sleep(0)


@asynccontextmanager
async def serving(*servers: VLLMStub) -> AsyncGenerator[None, None]:
    listeners = []
    for server in servers:
        listener = await asyncio.start_server(server.serve, "127.0.0.1", server.port)
        server.port = listener.sockets[0].getsockname()[1]
        listeners.append(listener)
    try:
        yield
        for server in servers:
            await server.until_connections(0)
    finally:
        for listener in listeners:
            listener.close()


@asynccontextmanager
async def staged(
    encoder: PromptEncoder, *answers: Answer, manifest: Bundle | None = None, **settings: Any
) -> AsyncGenerator[Stage, None]:
    """One server, which has answered."""
    server = VLLMStub(encoder, *answers)
    async with serving(server):
        stage = Stage(encoder, [server], manifest or Bundle(name="tiny"))
        stage.build(**settings)
        try:
            await stage.engine.await_answer()
            yield stage
        finally:
            await stage.engine.close()


@contextmanager
def in_a_thread(*servers: VLLMStub) -> Iterator[None]:
    """The servers on an event loop of their own, beside the application's and the test's."""
    started, stop = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        async with serving(*servers):
            loops.append(asyncio.get_running_loop())
            started.set()
            await stop.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    assert started.wait(10)
    try:
        yield
    finally:
        loops[0].call_soon_threadsafe(stop.set)
        thread.join(10)


def sent(asked: Asked) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(json.dumps(asked.body))
    return body
