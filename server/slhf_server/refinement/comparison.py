"""Asks the judge. Whatever comes of it, the refinement goes on: where a judge fails, there is no verdict."""

import logging
import time
from dataclasses import dataclass

from slhf_server.models.judge import Verdict
from slhf_server.refinement.job import Job, Judging

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two texts that a judge is to compare, each with its round."""

    judging: Judging
    old: str
    new: str
    against: int
    round: int


@dataclass(frozen=True, slots=True)
class Judged:
    """What came of a comparison."""

    asked: Comparison
    verdict: Verdict | None
    """None: the judge failed."""
    seconds: float


async def ask(job: Job, asked: Comparison) -> Judged:
    """Raises DeadlineExceeded alone."""
    started = time.perf_counter()
    judging = asked.judging
    request_id = f"{job.run_id}-{asked.round}-judge"
    verdict = None
    try:
        texts = (asked.old, asked.new)
        answer = judging.judge.compare(judging.turns, *texts, request_id=request_id, priority=job.priority)
        verdict = await job.deadline.wait_for(answer)
    except Exception as exc:
        job.deadline.check()  # raises where it was the deadline that ended it
        said, name, traced = type(exc).__name__, judging.judge.name, _logger.isEnabledFor(logging.DEBUG)
        _logger.warning("request %s: judge %s gave no verdict: %s", job.request_id, name, said, exc_info=traced)
    return Judged(asked, verdict, time.perf_counter() - started)
