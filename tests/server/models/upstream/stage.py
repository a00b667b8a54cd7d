"""One upstream in front of one faulty server, with a clock and a sleep that the test holds."""

from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry

from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.upstream.client import Upstream
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY
from slhf_server.settings.endpoints import UpstreamSettings
from tests.server.models.upstream.faulty import Faulty, Reply, serving

KEY = "sk-SECRET-KEY"
ASK = (Turn("system", "Be brief."), Turn("user", "Hi"))
PLAIN = SamplingParams()


@dataclass
class Stage:
    server: Faulty
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    slept: list[float] = field(default_factory=list)
    now: float = 1000.0
    luck: float = 1.0
    sleep: Callable[[float], Awaitable[None]] | None = None
    """What a pause is spent with; None: it is over at once."""
    upstream: Upstream = field(init=False)
    _counters: UpstreamMetrics = field(init=False)

    def __post_init__(self) -> None:
        self._counters = UpstreamMetrics(self.metrics, LATENCY)

    def build(self, **settings: Any) -> Upstream:
        given: dict[str, Any] = {"base_url": self.server.url, "model": "big", "api_key": KEY} | settings
        self.upstream = Upstream(
            "cloud",
            UpstreamSettings(**given),
            self._counters,
            sleep=self._sleep,
            random=lambda: self.luck,
            clock=lambda: self.now,
        )
        return self.upstream

    async def ask(
        self, turns: Sequence[Turn] = ASK, sampling: SamplingParams = PLAIN, *, deltas: bool = True
    ) -> list[Chunk]:
        """The whole completion."""
        async with aclosing(self.upstream.stream(turns, sampling, request_id="r", deltas=deltas)) as chunks:
            return [chunk async for chunk in chunks]

    def count(self, metric: str, **labels: str) -> float:
        return self.metrics.get_sample_value(metric, {"upstream": "cloud"} | labels) or 0.0

    async def _sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        if self.sleep is not None:
            await self.sleep(seconds)


@asynccontextmanager
async def staged(*replies: Reply, **settings: Any) -> AsyncGenerator[Stage, None]:
    async with serving(*replies) as server:
        stage = Stage(server)
        stage.build(**settings)
        try:
            yield stage
        finally:
            await stage.upstream.close()
