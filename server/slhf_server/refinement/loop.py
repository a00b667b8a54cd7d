"""The k-round refinement, written once; the JSON answer, the streams and the tests consume it.

Implements inference-time refinement of SLHF (arXiv 2512.16626): y ~ pi(.|x) or a given draft, then
y_i ~ omega(.|x, y_{i-1}): each round is conditioned on the conversation and on the latest text alone. The paper runs
no judge; where a request asks for one, it is asked once a round has finished, and changes nothing of what rounds see.
The paper numbers the Leader's answer 1; here the draft is round 0, so "k rounds" means k refinements.

Beyond the paper, it is an *anytime* computation: whatever ends it early, the best finished text is the answer.
"""

import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing

from slhf.wire import RoundCompleted, RoundDelta, RoundJudged, RoundStarted
from slhf_server.errors import DeadlineExceeded, InternalError, RequestError
from slhf_server.refinement.comparison import ask
from slhf_server.refinement.job import Job
from slhf_server.refinement.request_log import record_tokens
from slhf_server.refinement.state import RefinementResult, RefinementState

_logger = logging.getLogger(__name__)
RefinementEvent = RoundStarted | RoundDelta | RoundCompleted | RoundJudged | RefinementResult


async def refine(job: Job) -> AsyncGenerator[RefinementEvent, None]:
    """Play the rounds of `job` and yield their events; the last event is always its result.

    Raises RequestError when there is nothing to answer with, or when the job asks errors to fail.
    """
    state = RefinementState(job)
    try:
        if job.draft is not None:
            yield state.accept_draft(job.draft)
        while (reason := state.stop_reason()) is None:
            job.deadline.check()
            binding, turns, sampling = state.next_round()
            yield RoundStarted(round=state.number, role=binding.role, model=binding.model.name)
            wanted = job.wants_pieces(state.number)
            completion = binding.model.stream(turns, sampling, request_id=f"{job.run_id}-{state.number}", deltas=wanted)
            try:
                async with aclosing(job.deadline.within(completion)) as chunks:
                    async for chunk in chunks:
                        if (piece := state.take(chunk)) is not None:
                            yield piece
            except DeadlineExceeded:
                if not state.is_whole:  # a model that has said everything was only tidying up
                    raise
            yield await state.finish_round()
            if (texts := await state.comparison()) is not None:
                yield state.take_verdict(await ask(job, texts))
    except RequestError as exc:
        reason = state.settle(exc)
    except Exception:  # a bug is no reason to lose what was finished
        _logger.exception("request %s failed unexpectedly", job.request_id)
        reason = state.settle(InternalError(f"internal error; request id {job.request_id}"))
    finally:  # whoever leaves early has spent it, too
        record_tokens(job.log, state.spent())
        job.deadline.close()
    yield state.result(reason)
