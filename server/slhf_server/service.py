"""The service: the engine's life, the queue, and every refinement that is under way."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, nullcontext
from typing import TYPE_CHECKING

from slhf import Bundle
from slhf.verdicts import PreferenceList, ShadowReport, Vote, VoteRequest
from slhf.wire import RoundCompleted, RoundDelta, RoundJudged
from slhf_server.access.admission import Admission
from slhf_server.bundles.abandoning import may_be_abandoned
from slhf_server.errors import (
    BadRequest,
    EngineUnavailable,
    InternalError,
    RefinementNotFound,
    RequestError,
    UpstreamUnavailable,
)
from slhf_server.models.base import Engine, RemoteEngine
from slhf_server.models.judge import Judge
from slhf_server.models.judges.kinds import open_judges
from slhf_server.models.structured_output.workers import Workers
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY, Metrics
from slhf_server.refinement.choices import merge_streams
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent, refine
from slhf_server.refinement.planner import Planner
from slhf_server.refinement.request_log import record_result
from slhf_server.refinement.state import RefinementResult
from slhf_server.settings.endpoints import OWN_ENGINE
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import Settings
from slhf_server.verdicts.ballots import NoBallot, WrongRound
from slhf_server.verdicts.ledger import Ledger

if TYPE_CHECKING:
    from slhf_server.models.upstream.client import Upstream
    from slhf_server.observability.tracing import Tracing

OpenEngine = Callable[[Settings], Awaitable[Engine]]
OpenRemoteEngines = Callable[[Settings, UpstreamMetrics], Awaitable[Mapping[str, RemoteEngine]]]

_LIFE_SIGN_S = 0.5
_ANSWERING_S = 1.0  # of the grace period: time to send what the shortened deadlines produce
_logger = logging.getLogger(__name__)


class Service:
    """Opens the engines in the background, runs refinements, and ends both in good order."""

    def __init__(self, settings: Settings, open_engine: OpenEngine, open_remote_engines: OpenRemoteEngines) -> None:
        self.settings = settings
        self.metrics = Metrics()
        self.admission = Admission(settings.limits.running, settings.limits.waiting)
        self._others_metrics = UpstreamMetrics(self.metrics.registry, LATENCY)
        self.upstreams = _upstreams(settings, self._others_metrics)
        self.workers = Workers(grammars=_writes_guidance(settings))
        self.engine: Engine | None = None
        """The one in this process; None while it is loading, and where no served model needs it."""
        self.remote_engines: Mapping[str, RemoteEngine] = {}
        self.judges: Mapping[str, Judge] = {}
        """By name; none until the engines are loaded."""
        self._closing = AsyncExitStack()
        self._ledger = Ledger(settings, self.metrics.registry, self.metrics.verdicts)
        self._planner: Planner | None = None
        self._open_engine = open_engine
        self._open_remote_engines = open_remote_engines
        self._tracing = _tracing(settings)
        self._jobs: set[Job] = set()
        self._ends: float | None = None  # when a shutdown makes every deadline pass
        self._loading: asyncio.Task[None] | None = None
        self._abandoned = threading.Event()
        self._probes: list[asyncio.Task[None]] = []
        self._watching: asyncio.Task[None] | None = None
        self.failure: Exception | None = None
        """What kept an engine from being loaded, or the error that it has died."""
        self.on_failure: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin to load the engines, and to ask the upstreams whether they are there."""
        self._abandoned = may_be_abandoned()
        self._loading = asyncio.create_task(self._load())
        self._probes = [asyncio.create_task(upstream.await_answer()) for upstream in self.upstreams.values()]

    async def loading(self) -> None:
        """Wait until the engine is loaded, or has failed to. A remote one may not have answered by then."""
        assert self._loading is not None  # after start
        await self._loading

    async def stop(self) -> None:
        """End the engine and its processes; send the last traces.

        A load that is under way is waited for: the processes it starts must not be left behind. A download before it
        stops.
        """
        self._abandoned.set()
        await self.loading()
        self._ledger.stop()
        for probe in self._probes:
            probe.cancel()
        if self._probes:
            await asyncio.wait(self._probes)
        for upstream in self.upstreams.values():
            await upstream.close()
        for remote in self.remote_engines.values():
            await remote.close()
        await self._closing.aclose()
        await self.workers.close()
        await self._ledger.close()
        if self._watching is not None:
            self._watching.cancel()
        if self.engine is not None:
            self.engine.shutdown()  # blocks the loop, which has nothing left to do
        if self._tracing is not None:
            self._tracing.shutdown()

    def drain(self, grace_s: float) -> None:
        """Have every refinement under way answer within the grace period, with its best finished text if need be."""
        self._ledger.stop()
        self._ends = asyncio.get_running_loop().time() + max(0.0, grace_s - _ANSWERING_S)
        self._bring_forward(self._jobs, self._ends)

    def _bring_forward(self, jobs: Iterable[Job], ends: float) -> None:
        for job in jobs:
            job.deadline.bring_forward(ends)

    def planner(self) -> Planner:
        """The planner of the loaded engines.

        Raises EngineUnavailable until they are loaded, when the one in this process has died, and when the server is
        shutting down.
        """
        if self._ends is not None:
            raise EngineUnavailable("the server is shutting down")
        if self._planner is None:
            raise EngineUnavailable("the engine could not be loaded" if self.failure else "the engine is still loading")
        if self.engine is not None:
            self.engine.check()
        return self._planner

    def ready(self) -> None:
        """Raises what `planner` does, EngineUnavailable until each remote engine has answered once, and
        UpstreamUnavailable until each upstream has."""
        self.planner()
        for remote in self.remote_engines.values():
            remote.check()
        for name, upstream in self.upstreams.items():
            if not upstream.answered:
                raise UpstreamUnavailable(f"the upstream {name!r} has not answered yet")

    @property
    def bundle(self) -> tuple[str, Bundle | None]:
        """Where the default model's bundle comes from, as the settings say, and its manifest once it is read."""
        name = self.settings.engine_names[0]
        if name == OWN_ENGINE:
            return self.settings.bundle, None if self.engine is None else self.engine.manifest
        remote = self.remote_engines.get(name)
        return self.settings.remote_engines[name].tokenizer, None if remote is None else remote.manifest

    async def run(self, jobs: Sequence[Job]) -> AsyncGenerator[tuple[int, RefinementEvent], None]:
        """Queue a request, count and time it, and yield the events of its chains, each with its chain's number.

        Closing the generator aborts the chains. Raises what refuses the request and, when every chain has ended, the
        error of one that failed.
        """
        first, failures = jobs[0], list[RequestError]()
        self._jobs.update(jobs)
        self._ledger.make_way()
        try:
            if self._ends is not None:  # they were planned before the shutdown began
                self._bring_forward(jobs, self._ends)
            async with self._watched(jobs), self.admission.place(first.model, first.deadline):
                queued = time.perf_counter() - first.received
                first.log["queue_ms"] = round(queued * 1e3, 1)
                self.metrics.request_queued(first.model, queued)
                silent = {*range(len(jobs))}
                async with aclosing(merge_streams([refine(job) for job in jobs])) as events:
                    async for number, event in events:
                        if isinstance(event, Exception):
                            failures.append(self._failed(jobs[number], event))
                            continue
                        if number in silent or not isinstance(event, RoundDelta):
                            self._observe(jobs[number], event)
                        if isinstance(event, RoundDelta):
                            silent.discard(number)
                        yield number, event
                if failures:
                    raise failures[0]
        finally:
            self._jobs.difference_update(jobs)
            if not self._jobs:
                self._ledger.resume()

    async def vote(self, request: VoteRequest, key: str | None) -> Vote:
        """Keep a key's vote on a refinement of its own. Raises RefinementNotFound, and BadRequest for its rounds."""
        try:
            return await self._ledger.vote(request, key)
        except NoBallot as exc:
            message = "no refinement of that id can be voted on: it is not known here, not this key's, or too long ago"
            raise RefinementNotFound(message, param="id") from exc
        except WrongRound as exc:
            raise BadRequest(str(exc), param=exc.param) from exc

    async def shadow_report(self, model: str) -> ShadowReport:
        """Raises ModelNotFound, and EngineUnavailable until the engine is loaded, as does the next one."""
        return await self._ledger.report(self.planner().name_of(model))

    async def preferences(self, model: str, key: str | None, after: int, limit: int) -> PreferenceList:
        """A page of the preference pairs of a model, as far as a key may see them."""
        return await self._ledger.pairs(self.planner().name_of(model), key, after, limit)

    def _observe(self, job: Job, event: RefinementEvent) -> None:
        """Show metrics, traces and the log a chain's first piece of text, and every event that is no piece.

        An observer that fails does not hold up the answer.
        """
        try:
            if self._tracing is not None:
                self._tracing.take(job, event)
            if isinstance(event, RoundDelta):
                self.metrics.first_token_came(job.model, time.perf_counter() - job.received)
            elif isinstance(event, RoundCompleted):
                self.metrics.round_completed(job.model, event)
            elif isinstance(event, RoundJudged):
                self.metrics.round_judged(job.model, event)
            elif isinstance(event, RefinementResult):
                self._ended(job, event)
        except Exception:
            _logger.exception("request %s is answered, but not counted in full", job.request_id)

    def _failed(self, job: Job, exc: Exception) -> RequestError:
        """What a chain's failure is answered with: a bug is an InternalError."""
        if self._tracing is not None:
            self._tracing.failed(job, exc)
        if isinstance(exc, RequestError):
            return exc
        _logger.error("request %s failed unexpectedly", job.request_id, exc_info=exc)
        error = InternalError(f"internal error; request id {job.request_id}")
        error.__cause__ = exc
        return error

    def _watched(self, jobs: Sequence[Job]) -> AbstractAsyncContextManager[None]:
        return nullcontext() if self._tracing is None else self._tracing.watching(jobs)

    def _ended(self, job: Job, result: RefinementResult) -> None:
        self.metrics.refinement_ended(job.model, result)
        seconds = time.perf_counter() - job.received
        self.metrics.request_succeeded(job.model, job.endpoint, result.finish_reason, seconds)
        record_result(job.log, result.refinement, result.usage)
        if self.settings.log_content:
            told = {"messages": [f"{turn.role}: {turn.text}" for turn in job.turns], "answer": result.text}
            job.log.setdefault("content", []).append(told)
        self._ledger.ended(job, result)

    async def _load(self) -> None:
        started = time.perf_counter()
        try:
            engines = await self._opened()
            self.engine = own = engines.get(OWN_ENGINE)  # from here on `stop` ends it
            judges = open_judges(self.settings.judges, self.upstreams, own, self._others_metrics, self._closing)
            planner = Planner(self.settings, engines, self.upstreams, self.workers, judges)
            await self._ledger.open(planner.served, planner.revisions, judges)
        except Exception as exc:  # noqa: BLE001  kept in `failure`: the command that serves decides what it means
            return self._fail(exc)
        names = list(planner.served)
        self.metrics.watch(self.admission, names)
        for engine in engines.values():
            self.metrics.loaded(engine.manifest.revision or "unknown")
        self._planner, self.judges = planner, judges
        context = "" if own is None else f"; context {own.max_model_len} tokens"
        _logger.info("ready after %.1f s: %s%s", time.perf_counter() - started, ", ".join(names), context)
        if own is not None:
            self._watching = asyncio.create_task(self._watch(own))

    async def _opened(self) -> dict[str, Engine]:
        """Every engine that the served models need, and the remote ones that are configured."""
        self.remote_engines = await self._open_remote_engines(self.settings, self._others_metrics)
        self._probes += [asyncio.create_task(self._await_answer(remote)) for remote in self.remote_engines.values()]
        engines: dict[str, Engine] = dict(self.remote_engines)
        if OWN_ENGINE in self.settings.engine_names:
            engines[OWN_ENGINE] = await self._open_engine(self.settings)
        return engines

    async def _await_answer(self, remote: RemoteEngine) -> None:
        try:
            await remote.await_answer()
        except SettingsError as exc:
            self._fail(exc)

    def _fail(self, exc: Exception) -> None:
        self.failure = exc
        self.on_failure()

    async def _watch(self, engine: Engine) -> None:
        """Notice the engine's death although no request asks: this process is of no use without the engine."""
        while self._ends is None:
            try:
                engine.check()
            except EngineUnavailable as exc:
                return self._fail(exc)
            await asyncio.sleep(_LIFE_SIGN_S)


def _upstreams(settings: Settings, metrics: UpstreamMetrics) -> "dict[str, Upstream]":
    if not settings.upstreams:
        return {}
    from slhf_server.models.upstream.client import Upstream  # imports an HTTP client, which only upstreams need

    return {name: Upstream(name, upstream, metrics) for name, upstream in settings.upstreams.items()}


def _writes_guidance(settings: Settings) -> bool:
    """Whether the engine's grammars are llguidance's, unless the operator has chosen other ones. A remote engine's are
    its own affair."""
    if OWN_ENGINE not in settings.engine_names:
        return False
    chosen = settings.engine.get("structured_outputs_config")
    return chosen is None or (isinstance(chosen, dict) and chosen.get("backend") == "guidance")


def _tracing(settings: Settings) -> "Tracing | None":
    if settings.otlp_endpoint is None:
        return None
    from slhf_server.observability.tracing import Tracing  # imports OpenTelemetry's SDK, which only traces need

    return Tracing(settings.otlp_endpoint, content=settings.trace_content)
