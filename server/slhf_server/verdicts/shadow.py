"""Shadow mode of one served model: a share of what its clients were given as a draft is refined and judged for nobody.

No client waits for any of it. A queue takes what there is room for and drops the rest; its refinements run after
everybody else's; what fails is counted and logged.
"""

import asyncio
import hashlib
import logging
from collections import Counter, deque
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import dataclass

from slhf_server.models.judge import Judge, Verdict
from slhf_server.models.reasoning import is_blank
from slhf_server.refinement.edits import edit_ratio
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import refine
from slhf_server.refinement.state import RefinementResult
from slhf_server.refinement.stops import RULES
from slhf_server.refinement.wishes import with_instruction
from slhf_server.settings.shadowing import ShadowSettings
from slhf_server.verdicts.record import SAME, Record, Text, messages_of, outcome_of
from slhf_server.verdicts.shadow_metrics import VerdictMetrics
from slhf_server.verdicts.store import Experiment, Progress, VerdictStore

LONGEST = 32_768
"""Characters of conversation and draft together; longer ones are left out (docs/api.md)."""
MOST_WAITING = 32
"""Refinements in one model's queue (docs/api.md)."""
MOST_ATTEMPTS = 8
"""Of a refinement that makes way again and again (docs/api.md)."""
LAST = 2**31 + 1
"""vLLM's priority of what runs after everything that somebody waits for: clients may ask for up to 2**31 - 1, and a
round of the Follower's is a step before a draft (engine/vllm.py)."""
_DAY_S = 86_400
_logger = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Case:
    """A draft that is to be refined and judged."""

    job: Job
    draft: str
    key: str | None
    attempts: int = 0
    judged: bool = False
    """Whether nothing is left but to keep the verdict."""


class Shadow:
    """The queue of one served model, and what is played of it."""

    def __init__(
        self,
        settings: ShadowSettings,
        experiment: Experiment,
        progress: Progress,
        judge: Judge,
        store: VerdictStore,
        metrics: VerdictMetrics,
        clock: Callable[[], float],
        *,
        priority: int,
        keep_texts: bool,
    ) -> None:
        """`clock` gives Unix seconds. `priority`: vLLM's, of the refinements."""
        self._settings = settings
        self._experiment = experiment
        self._judge = judge
        self._store = store
        self._metrics = metrics
        self._clock = clock
        self._priority = priority
        self._keep_texts = keep_texts
        self._ends = progress.started + settings.days * _DAY_S
        self._tokens = progress.refine_tokens + progress.judge_tokens
        self._outcomes = Counter(progress.outcomes)
        self._queue: deque[Case] = deque()
        self._running: dict[asyncio.Task[None], Case] = {}
        self._stopped = False
        self._busy = False  # whether a client waits for an answer
        self._paused = False
        model = experiment.model
        metrics.queue.labels(model).set_function(lambda: len(self._queue))
        metrics.show_win_rate(model, self._outcomes)

    def take(self, job: Job, result: RefinementResult, key: str | None) -> None:
        """Look at what a client of the model was given, and queue its refinement if it is one of those to be judged."""
        if job.choice or not job.shadow_rounds or not sampled(job, self._settings.share):
            return
        if (reason := self._reason_against(job, result)) is not None:
            return self._count("skipped", reason)
        if self._stopped or len(self._queue) >= MOST_WAITING:
            return self._count("dropped", "shutdown" if self._stopped else "queue_full")
        spent = result.usage.total_tokens
        self._queue.append(Case(job.shadow(result.draft, spent, self._priority), result.draft, key))
        self._fill()

    def make_way(self) -> None:
        """A client waits for an answer."""
        self._busy = True
        if self._settings.when_idle:
            self._give_up()

    def resume(self) -> None:
        """No client waits for an answer any more."""
        self._busy = False
        self._fill()

    async def pause(self) -> None:
        """Give up what runs, and begin nothing until `go_on`."""
        self._paused = True
        self._give_up()
        await self.stopped()

    def go_on(self) -> None:
        self._paused = False
        self._fill()

    def stop(self) -> None:
        """Give up what runs, and drop what waits and what comes."""
        if self._stopped:
            return
        self._stopped = True
        for _ in range(len(self._queue) + len(self._running)):
            self._count("dropped", "shutdown")
        self._queue.clear()
        for task in self._running:
            task.cancel()

    async def stopped(self) -> None:
        """Wait until what was given up has ended."""
        if self._running:
            await asyncio.wait(self._running)

    def _reason_against(self, job: Job, result: RefinementResult) -> str | None:
        """Why this refinement is not played in the shadow."""
        if result.refinement.stop_reason != "shadowed":
            return result.refinement.stop_reason  # a call of tools, or a draft that a limit cut
        if job.no_store:
            return "no_store"
        if is_blank(result.draft):
            return "blank"
        if sum(len(turn.text) for turn in job.turns) + len(result.draft) > LONGEST:
            return "too_long"
        if result.usage.total_tokens >= job.max_total_tokens:
            return "token_budget"
        under_way = len(self._queue) + len(self._running)
        judged = sum(self._outcomes[outcome] for outcome in ("win", "tie", "loss"))
        over = judged + under_way >= self._settings.verdicts or self._tokens >= self._settings.tokens
        return "ended" if over or self._clock() >= self._ends else None

    def _give_up(self) -> None:
        """End what runs; it begins again when it may."""
        for task, case in self._running.items():
            if not case.judged and not task.cancelling():  # a second one would disturb the first one's tidying up
                task.cancel()

    def _fill(self) -> None:
        """Begin as many of those that wait as may run."""
        held = self._paused or (self._busy and self._settings.when_idle)
        while self._queue and not held and len(self._running) < self._settings.concurrent:
            case = self._queue.popleft()
            task = asyncio.create_task(self._play(case))
            self._running[task] = case
            task.add_done_callback(self._played)

    def _played(self, task: asyncio.Task[None]) -> None:
        case = self._running.pop(task)
        if not task.cancelled():
            task.result()
        elif not self._stopped and case.attempts < MOST_ATTEMPTS:  # it was given up
            self._queue.appendleft(case)
        elif not self._stopped:
            self._count("dropped", "interrupted")
        self._fill()

    async def _play(self, case: Case) -> None:
        """Refine, judge and keep; the outermost boundary of what happens in the shadow."""
        case.attempts += 1
        job, step, verdict = case.job.again(case.attempts), "refinement", Verdict(p=None)
        try:
            result = await _refined(job)
            if (ended := _nothing_to_judge(result)) is not None:
                return self._count("failed", ended)
            step = "judge"
            verdict = await self._compare(case, result)
            step, case.judged = "store", True
            await self._keep(case, result, verdict)
            self._count("judged", "unchanged" if verdict is SAME else "compared")
        except Exception as exc:
            said, traced = type(exc).__name__, _logger.isEnabledFor(logging.DEBUG)
            _logger.warning(
                "request %s, in the shadow: %s failed: %s", case.job.request_id, step, said, exc_info=traced
            )
            self._count("failed", step)
        finally:
            self._spend(job.log.get("prompt_tokens", 0) + job.log.get("completion_tokens", 0), _tokens(verdict))

    async def _compare(self, case: Case, result: RefinementResult) -> Verdict:
        if result.text == case.draft:
            return SAME
        job, name = case.job, f"{case.job.run_id}.{case.attempts}.judge"
        asked = with_instruction(job.turns, job.instruction)
        async with asyncio.timeout(
            job.timeout_s
        ):  # no judge is on a remote engine, and an upstream is sent no priority
            return await self._judge.compare(asked, case.draft, result.text, request_id=name, priority=LAST)

    async def _keep(self, case: Case, result: RefinementResult, verdict: Verdict) -> None:
        outcome, keep = outcome_of(verdict), self._keep_texts
        record = Record(
            refinement=case.job.id,
            source="shadow",
            outcome=outcome,
            model=self._experiment.model,
            revision=self._experiment.revision,
            judge=self._experiment.judge,
            key=case.key,
            draft_source=case.job.draft_source,
            draft=Text.of(case.draft, keep=keep),
            refined=Text.of(result.text, keep=keep),
            created=self._clock(),
            edit_ratio=edit_ratio(case.draft, result.text),
            p=verdict.p,
            consistent=verdict.consistent,
            refine_tokens=result.usage.total_tokens,
            judge_tokens=_tokens(verdict),
            messages=messages_of(case.job.turns) if keep else None,
        )
        await self._store.add(record)
        self._outcomes[outcome] += 1
        self._metrics.count(record)
        self._metrics.show_win_rate(self._experiment.model, self._outcomes)

    def _spend(self, refine_tokens: int, judge_tokens: int) -> None:
        """Count what a refinement has cost, as far as its models have told, whatever came of it."""
        if not refine_tokens + judge_tokens:
            return
        self._tokens += refine_tokens + judge_tokens
        for phase, tokens in (("refine", refine_tokens), ("judge", judge_tokens)):
            self._metrics.tokens.labels(self._experiment.model, phase).inc(tokens)
        self._store.spend(self._experiment, refine_tokens, judge_tokens)

    def _count(self, result: str, reason: str) -> None:
        self._metrics.shadow.labels(self._experiment.model, result, reason).inc()


def sampled(job: Job, share: float) -> bool:
    """Whether the request is one of the share: its id decides, so a request that is sent again is one again."""
    digest = hashlib.sha256(f"{job.model}:{job.request_id}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64


def _tokens(verdict: Verdict) -> int:
    return verdict.prompt_tokens + verdict.completion_tokens


async def _refined(job: Job) -> RefinementResult:
    async with aclosing(refine(job)) as events:
        async for event in events:
            if isinstance(event, RefinementResult):
                return event
    raise AssertionError("a refinement ends with its result")


def _nothing_to_judge(result: RefinementResult) -> str | None:
    """Why the refinement is not what its client would have got; None: it is."""
    reason = result.refinement.stop_reason
    whole = result.refinement.applied or reason in ("rounds_done", *RULES)
    return reason if reason == "error" or not whole else None
