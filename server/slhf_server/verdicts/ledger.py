"""Everything of verdicts that one server has: what ended is shown to it, and it is asked for votes, reports and pairs.

Nothing here holds up an answer: what it is shown, it looks at without waiting for anything.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from slhf.verdicts import PreferenceList, ShadowReport, Vote, VoteRequest
from slhf_server.errors import VerdictsUnavailable
from slhf_server.models.judge import Judge
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import RefinementResult
from slhf_server.settings.endpoints import OWN_ENGINE
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.server import ServedModel, Settings
from slhf_server.verdicts import report
from slhf_server.verdicts.ballots import Ballots
from slhf_server.verdicts.record import selected
from slhf_server.verdicts.shadow import LAST, Shadow
from slhf_server.verdicts.shadow_metrics import VerdictMetrics
from slhf_server.verdicts.store import Experiment, UnreadableFile, VerdictStore

_logger = logging.getLogger(__name__)


class Ledger:
    """The store, the shadows and what can be voted on."""

    def __init__(
        self,
        settings: Settings,
        registry: CollectorRegistry,
        verdicts: Counter,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`verdicts` counts them in the registry. `clock` gives Unix seconds."""
        self._keep_texts = settings.log_content
        self._has_keys = settings.api_keys is not None or settings.api_keys_file is not None
        self._file_is_set = settings.verdicts_file is not None
        self._path: Path = settings.verdicts_file or settings.cache_dir / "verdicts.db"
        self._store = VerdictStore(self._path)
        self._metrics = VerdictMetrics(registry, verdicts)
        self._ballots = Ballots(keep_texts=self._keep_texts)
        self._clock = clock
        self._served: Mapping[str, ServedModel] = {}
        self._revisions: Mapping[str, str] = {}
        self._shadows: dict[str, Shadow] = {}

    async def open(
        self, served: Mapping[str, ServedModel], revisions: Mapping[str, str], judges: Mapping[str, Judge]
    ) -> None:
        """Begin, or go on with, the shadow of each served model that has one. `revisions` are those of their weights.

        Raises SettingsError where a shadow, or the setting `verdicts_file`, needs a file that cannot be used.
        """
        self._served, self._revisions = served, revisions
        try:
            await self._open(served, judges)
        except UnreadableFile as exc:
            raise SettingsError(f"verdicts_file {exc}") from exc

    async def _open(self, served: Mapping[str, ServedModel], judges: Mapping[str, Judge]) -> None:
        """Raises UnreadableFile."""
        if self._file_is_set:
            await self._store.check()
        for name, model in served.items():
            if model.shadow is None:
                continue
            experiment = self._experiment(name)
            progress = await self._store.begin(experiment, self._clock())
            self._shadows[name] = Shadow(
                model.shadow,
                experiment,
                progress,
                judges[model.shadow.judge],
                self._store,
                self._metrics,
                self._clock,
                priority=LAST if model.follower == OWN_ENGINE else 0,  # a remote one may refuse any other
                keep_texts=self._keep_texts,
            )

    def ended(self, job: Job, result: RefinementResult) -> None:
        """Look at a refinement that has ended."""
        key, revision = job.log.get("key"), self._revisions.get(job.model, "")
        self._ballots.remember(job, result, revision, key)
        if self._keep_texts:  # without them a choice says no more than the metrics do
            for record in selected(job, result, revision, self._clock()):
                self._store.note(record)
        if (shadow := self._shadows.get(job.model)) is not None:
            shadow.take(job, result, key)

    def make_way(self) -> None:
        """A client waits for an answer."""
        for shadow in self._shadows.values():
            shadow.make_way()

    def resume(self) -> None:
        """No client waits for an answer any more."""
        for shadow in self._shadows.values():
            shadow.resume()

    async def pause(self) -> None:
        """Have nothing run in the shadow until `go_on`: the engine is to sleep."""
        for shadow in self._shadows.values():
            await shadow.pause()

    def go_on(self) -> None:
        for shadow in self._shadows.values():
            shadow.go_on()

    async def vote(self, request: VoteRequest, key: str | None) -> Vote:
        """Keep a key's vote; when this returns it is on disk.

        Raises RefinementNotFound, BadRequest and, as the next two do, VerdictsUnavailable.
        """
        ballot, now = self._ballots.of(request.id, key), self._clock()
        a, b = ballot.pair(request)
        with _available():
            await self._store.add(record := ballot.record(request, a, b, now))
        self._metrics.count(record)
        return Vote(id=request.id, model=ballot.model, vote=request.vote, a=a, b=b, created=int(now))

    async def report(self, model: str) -> ShadowReport:
        """What the verdicts on a served model with its present weights say."""
        settings, experiment = self._served[model].shadow, self._experiment(model)
        with _available():
            progress = None if settings is None else await self._store.begin(experiment, self._clock())
            return await report.report(self._store, experiment, settings, progress, self._clock())

    async def pairs(self, model: str, key: str | None, after: int, limit: int) -> PreferenceList:
        """Pairs of a served model: with API keys those of one key's requests, else all."""
        every_key = not self._has_keys
        with _available():
            return await report.pairs(self._store, model, key=key, every_key=every_key, after=after, limit=limit)

    def stop(self) -> None:
        """Give up what is under way in the shadow, at once, and begin nothing more."""
        for shadow in self._shadows.values():
            shadow.stop()

    async def close(self) -> None:
        """Do as `stop` does, and end the store after what it has been given."""
        self.stop()
        for shadow in self._shadows.values():
            await shadow.stopped()
        if self._store.used:
            await asyncio.to_thread(self._store.close)

    def _experiment(self, model: str) -> Experiment:
        shadow = self._served[model].shadow
        return Experiment(model, self._revisions[model], "" if shadow is None else shadow.judge)


@contextmanager
def _available() -> Iterator[None]:
    """Raises VerdictsUnavailable where the file cannot be used; why is told to the log alone."""
    try:
        yield
    except UnreadableFile as exc:
        _logger.error("verdicts: %s", exc)
        raise VerdictsUnavailable("verdicts can neither be kept nor read at present") from exc
