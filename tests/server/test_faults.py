"""Whatever the models do, a refinement ends, tells the truth about it, and leaves nothing behind.

hypothesis plays the models (erratic.py) on virtual time; the oracles below say what the truth is.
"""

import asyncio
import json
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, get_args

from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from slhf.wire import RoundCompleted, RoundDelta
from slhf_server.chain import Outcome
from slhf_server.choices import played
from slhf_server.deadline import Deadline
from slhf_server.errors import (
    BadRequest,
    BodyTooLarge,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    EngineUnavailable,
    InternalError,
    ModelNotFound,
    QueueFull,
    RequestError,
    Stopped,
    TokenBudgetExceeded,
    UpstreamFailed,
    UpstreamUnavailable,
)
from slhf_server.job import Deltas, Endpoint, Job, Player
from slhf_server.model import Sampling, Turn
from slhf_server.refinement import Step, refine
from slhf_server.stops.unchanged import unchanged
from slhf_server.structure import Structure
from tests.server.erratic import CALL, SECRET, Act, Erratic, VirtualLoop

QUESTION = (Turn("user", "what is it"),)
OBJECT = Structure({"type": "json_object"})
ERRORS: list[RequestError] = [
    BadRequest("no"),
    ContextLengthExceeded(9, 8),
    ModelNotFound("none"),
    BodyTooLarge("big"),
    QueueFull("full"),
    InternalError("bug"),
    EngineFailed("boom"),
    EngineUnavailable("gone"),
    UpstreamFailed("nonsense"),
    UpstreamUnavailable("away"),
    DeadlineExceeded("late"),
    TokenBudgetExceeded("spent"),
]
OPENED, UNOPENED = f"<think>\n{SECRET} </think>\n\n", f"{SECRET}\n</think>\n\n"
THOUGHTS = ["", "", "", OPENED, f"\n{OPENED}{OPENED}", f"<think>{SECRET} for ever", UNOPENED]
TEXTS = st.sampled_from(
    ["", " ", "\n", "a", "same words", "\u00e9\u4f60 \U0001f600", "{}", '{"a": 1}', '{"a": ', "[1]"]
)
WORDY = st.sampled_from(["one <think> is spoken of", "<", "<thin air", "w " * 300, "{" * 3000])


@dataclass
class Case:
    """One request's chains as a test starts them."""

    acts: list[list[Act]]
    """Of each chain's model."""
    options: dict[str, Any]
    """Of every job."""
    seconds: float
    shutdown: float | None
    """When a shutdown brings the deadlines forward; virtual seconds."""
    context: int
    logprobs: int | None
    leaves_after: int | None
    """Steps after which the consumer goes away."""


@dataclass
class Chained:
    """What one chain did."""

    job: Job
    model: Erratic
    deadline: float
    steps: list[Step] = field(default_factory=list)

    @property
    def completed(self) -> list[RoundCompleted]:
        return [step for step in self.steps if isinstance(step, RoundCompleted)]

    @property
    def outcome(self) -> Outcome | None:
        return self.steps[-1] if self.steps and isinstance(self.steps[-1], Outcome) else None

    @property
    def streamed(self) -> str:
        """What has reached the client as the answer."""
        return "".join(s.delta for s in self.steps if isinstance(s, RoundDelta) and self.job.answers_with(s.round))


def acts() -> st.SearchStrategy[Act]:
    return st.builds(
        Act,
        text=TEXTS | WORDY,
        before=st.sampled_from(THOUGHTS),
        size=st.sampled_from([1, 2, 3, 7, 1000]),
        pause=st.sampled_from([0.0, 0.0, 0.0, 0.01, 1.0, 1e6]),
        error=st.none() | st.none() | st.sampled_from(ERRORS),
    )


OPTIONS = st.fixed_dictionaries(
    {
        "endpoint": st.sampled_from(get_args(Endpoint)),
        "draft": st.none() | TEXTS,
        "rounds": st.integers(0, 4),
        "max_total_tokens": st.sampled_from([1, 17, 40, 200, *[100_000] * 6]),
        "fail_on_error": st.booleans(),
        "stops": st.sampled_from([(), (unchanged,)]),
        "structure": st.sampled_from([None, None, OBJECT]),
        "deltas": st.sampled_from(get_args(Deltas)),
        "counts_tokens": st.booleans(),
    }
)
CASES = st.builds(
    Case,
    acts=st.lists(st.lists(acts(), min_size=1, max_size=5), min_size=1, max_size=3),
    options=OPTIONS,
    seconds=st.sampled_from([-1.0, 0.05, 2.5, *[1e4] * 5]),
    shutdown=st.sampled_from([*[None] * 6, 0.0, 0.02, 1.5]),
    context=st.sampled_from([4, 20, *[10_000] * 5]),
    logprobs=st.none() | st.just(0),
    leaves_after=st.sampled_from([*[None] * 8, *range(12)]),
)


def chained(case: Case, number: int) -> Chained:
    own = case.acts[number]
    first = own[0]
    if case.options["draft"] is None and number == 1:  # the second chain's Leader calls tools
        own = [Act(first.text, first.before, first.size, first.pause, calls_tools=True), *own[1:]]
    model = Erratic(own, max_model_len=case.context)
    sampling = Sampling(logprobs=case.logprobs)
    job = Job(
        id="test",
        model="erratic",
        turns=QUESTION,
        leader_turns=QUESTION,
        draft_source="leader" if case.options["draft"] is None else "client",
        leader=Player("leader", model, sampling),
        follower=Player("follower", model, sampling),
        follower_turn="Improve it.",
        received=time.perf_counter(),
        deadline=Deadline.after(case.seconds),
        **case.options,
    )
    ends = case.seconds if case.shutdown is None else min(case.seconds, case.shutdown)
    return Chained(job, model, ends)


async def consume(case: Case, chains: Sequence[Chained]) -> RequestError | None:
    """Play the chains as an endpoint does; the error that came out, if one did."""
    seen = 0
    try:
        async with aclosing(played([refine(chain.job) for chain in chains])) as steps:
            async for number, step in steps:
                chains[number].steps.append(step)
                seen += 1
                if seen == case.leaves_after:
                    return None
    except RequestError as exc:
        return exc
    return None


async def play(case: Case) -> None:
    loop = asyncio.get_running_loop()
    chains = [chained(case, number) for number in range(len(case.acts))]
    if case.shutdown is not None:
        for chain in chains:
            loop.call_at(case.shutdown, chain.job.deadline.bring_forward, case.shutdown)
    error = await consume(case, chains)
    now = loop.time() + 1e-6  # timers fire within the clock's resolution
    assert [chain.model.running for chain in chains] == [0] * len(chains)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for chain in chains:
        nobody_sees_thoughts(chain)
        if chain.outcome is not None:
            event(chain.outcome.refinement.stop_reason)
            it_adds_up(chain, chain.outcome)
            the_reason_is_true(chain, chain.outcome, now)
    if case.leaves_after is None:
        failed = [chain for chain in chains if chain.outcome is None]
        assert (error is not None) == bool(failed)
        for chain in failed:
            event(f"raised: {type(error).__name__}")
            the_error_is_due(chain, now)


def nobody_sees_thoughts(chain: Chained) -> None:
    """Where the opening tag was never sent, thoughts are known by their closing tag alone: not before it was there,
    thus not in a stream, nor where they were cut."""
    unopened = [end for act, end in zip(chain.model.played, chain.model.endings, strict=True) if act.before == UNOPENED]
    if "length" in unopened:
        return
    for turns in chain.model.seen:
        for turn in turns:
            assert SECRET not in turn.text
            assert turn.token_ids is None or "".join(map(chr, turn.token_ids)) == turn.text
    for step in chain.steps:
        if isinstance(step, RoundDelta):
            assert unopened or SECRET not in step.delta
        elif isinstance(step, RoundCompleted):
            assert SECRET not in step.text or (unopened and chain.job.answers_with(step.round))
    if chain.outcome is not None and not (unopened and chain.job.answers_with(chain.outcome.refinement.returned_round)):
        assert SECRET not in chain.outcome.text
        assert SECRET not in "".join(one.token for one in chain.outcome.logprobs)


def it_adds_up(chain: Chained, outcome: Outcome) -> None:
    job, report = chain.job, outcome.refinement
    assert outcome.usage == report.usage.total()
    assert outcome.usage.total_tokens <= job.max_total_tokens
    assert outcome.usage.total_tokens == outcome.usage.prompt_tokens + outcome.usage.completion_tokens
    best = report.rounds[report.returned_round]
    assert (outcome.text, outcome.finish_reason) == (best.text, best.finish_reason)
    assert report.applied == (report.returned_round > 0)
    assert report.rounds_run == len(report.rounds) - 1 <= job.rounds == report.rounds_requested
    assert [one.round for one in report.rounds] == list(range(len(report.rounds)))
    assert [one.text for one in report.rounds[: len(chain.completed)]] == [one.text for one in chain.completed]
    assert len(report.rounds) - len(chain.completed) <= (1 if chain.streamed else 0)  # a cut answer that stands
    if job.structure is not None:
        assert all(is_object(one.text) for one in report.rounds[1:])
    if chain.streamed:
        assert outcome.text == chain.streamed
    if outcome.logprobs and outcome.text:
        assert outcome.text.endswith("".join(one.token for one in outcome.logprobs).lstrip())
    if job.rounds == 0 and job.draft is not None:
        assert outcome.text == job.draft


def the_reason_is_true(chain: Chained, outcome: Outcome, now: float) -> None:
    job, report = chain.job, outcome.refinement
    last = chain.model.endings[-1] if chain.model.endings else "stop"
    ended = last in ("stop", "length", "tool_calls")
    texts = [one.text for one in report.rounds]
    truth = {
        "disabled": job.rounds == 0 and ended,
        "rounds_done": report.rounds_run == job.rounds > 0 and ended,
        "unchanged": bool(job.stops) and 0 < report.rounds_run < job.rounds and texts[-1] == texts[-2],
        "tool_calls": report.rounds[-1].tool_calls == [CALL] and not report.applied,
        "deadline": (now >= chain.deadline and last == "closed") or isinstance(last, DeadlineExceeded),
        "token_budget": isinstance(last, TokenBudgetExceeded) or outcome.usage.total_tokens == job.max_total_tokens,
        "context_length": isinstance(last, ContextLengthExceeded),
        "error": (isinstance(last, RequestError) and not isinstance(last, (Stopped, ContextLengthExceeded)))
        or (ended and _may_be_blank(chain.model)),
        "invalid_structure": bool(ended and job.structure and chain.model.played) and not _is_admitted(chain.model),
    }
    assert truth[report.stop_reason], (report.stop_reason, last)
    if job.fail_on_error:
        assert report.stop_reason not in ("error", "context_length")


def _may_be_blank(model: Erratic) -> bool:
    """Whether the latest completion may have left nothing to show: no text, or one lost in thoughts."""
    if not model.played:
        return False
    act = model.played[-1]
    return not act.text.strip() or act.before.endswith("for ever") or model.endings[-1] == "length"


def _is_admitted(model: Erratic) -> bool:
    """Whether the latest completion is what was asked for: whole, and not lost in thoughts that never ended."""
    act = model.played[-1]
    return model.endings[-1] != "length" and not act.before.endswith("for ever") and is_object(act.text)


def is_object(text: str) -> bool:
    """The oracle of OBJECT."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


def the_error_is_due(chain: Chained, now: float) -> None:
    """The chain ended by an error: there was nothing honest to return."""
    job, last, finished = chain.job, chain.model.endings[-1], len(chain.completed)
    blank = bool(finished) and _may_be_blank(chain.model)
    assert isinstance(last, RequestError) or (last == "closed" and now >= chain.deadline) or blank
    if finished and (isinstance(last, Stopped) or last == "closed"):
        raise AssertionError(f"a finished text was lost to {last!r}")
    refused = isinstance(last, BadRequest) and finished == 1 and job.draft is not None
    assert finished == 0 or refused or job.fail_on_error or chain.streamed


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(CASES)
def test_whatever_the_models_do_the_outcome_is_true_and_nothing_is_left_behind(case: Case) -> None:
    note(str(case))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(case))
