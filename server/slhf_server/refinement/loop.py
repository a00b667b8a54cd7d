"""The k-round refinement, written once; the JSON answer, the streams and the tests consume it.

Implements inference-time refinement of SLHF (arXiv 2512.16626): y ~ pi(.|x) or a given draft, then
y_i ~ omega(.|x, y_{i-1}): each round is conditioned on the conversation and on the latest text alone. No judge runs.
The paper numbers the Leader's answer 1; here the draft is round 0, so "k rounds" means k refinements.

Beyond the paper, it is an *anytime* computation: whatever ends it early, the best finished text is the outcome.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from slhf.wire import RoundCompleted, RoundDelta, RoundStarted
from slhf_server.errors import DeadlineExceeded, InternalError, RequestError
from slhf_server.refinement.job import Job
from slhf_server.refinement.state import Chain, Outcome

_logger = logging.getLogger(__name__)
Step = RoundStarted | RoundDelta | RoundCompleted | Outcome


async def refine(job: Job) -> AsyncGenerator[Step, None]:
    """Play the rounds of `job`; the last step is always the Outcome.

    Raises RequestError when there is nothing to answer with, or when the job asks errors to fail.
    """
    chain = Chain(job)
    try:
        if job.draft is not None:
            yield chain.accept_draft(job.draft)
        while (reason := chain.stop_reason()) is None:
            job.deadline.check()
            player, turns, sampling = chain.next_round()
            yield RoundStarted(round=chain.number, role=player.role, model=player.model.name)
            wanted = job.wants_pieces(chain.number)
            completion = player.model.stream(turns, sampling, request_id=f"{job.run_id}-{chain.number}", deltas=wanted)
            try:
                async with aclosing(job.deadline.within(completion)) as chunks:
                    async for chunk in chunks:
                        if (piece := chain.take(chunk)) is not None:
                            yield piece
            except DeadlineExceeded:
                if not chain.is_whole:  # else the model had said everything, and was only tidying up
                    raise
            yield await chain.finish_round()
    except RequestError as exc:
        reason = chain.settle(exc)
    except Exception:  # a bug is no reason to lose what was finished
        _logger.exception("request %s failed unexpectedly", job.request_id)
        reason = chain.settle(InternalError(f"internal error; request id {job.request_id}"))
    yield chain.outcome(reason)
