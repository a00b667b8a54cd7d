"""Whatever the models do, a refinement ends, tells the truth about it, and leaves nothing behind.

hypothesis plays the models (erratic.py) on virtual time; the contract says what the truth is (verdict.py).
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, get_args

from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st

from slhf.wire import RoundCompleted, RoundDelta
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
    TokenBudgetExceeded,
    UpstreamFailed,
    UpstreamUnavailable,
)
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.structured_output.response_format import StructuredOutput
from slhf_server.refinement.choices import merge_streams
from slhf_server.refinement.job import Deltas, Endpoint, Job, Judging, RoleBinding
from slhf_server.refinement.loop import RefinementEvent, refine
from slhf_server.refinement.state import RefinementResult
from slhf_server.refinement.stops.judge_sure import judge_sure
from slhf_server.refinement.stops.no_gain import no_gain
from slhf_server.refinement.stops.unchanged import unchanged
from tests.server.refinement.erratic import SECRET, Act, Erratic, ErraticJudge, Opinion, VirtualLoop
from tests.server.refinement.verdict import Answer, Wish, read_by_the_follower, verdict

QUESTION = (Turn("user", "what is it"),)
OBJECT = StructuredOutput({"type": "json_object"})
ERRORS: list[Exception] = [
    ZeroDivisionError("a bug"),
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
sure = judge_sure(0.9)
OPINIONS: list[Any] = [0.0, 0.3, 0.59, 0.6, 0.95, 1.0, None, EngineFailed("boom"), ZeroDivisionError("a bug")]
OPENED = f"<think>\n{SECRET} </think>\n\n"
THOUGHTS = [
    "",
    "",
    "",
    OPENED,
    f"\n{OPENED}{OPENED}",
    OPENED * 40,
    f"<think></think> {OPENED}\t",
    f"<think>{SECRET} for ever",
]
BLANK = ["", " ", "\n", "\u3000 \t", "\u200b", " \ufeff\n\u2060"]
TEXTS = st.sampled_from(
    [*BLANK, "a", "same words", "\u00e9\u4f60 \U0001f600", "{}", '{"a": 1}', '{"a": ', "[1]", "\u200b after nothing"]
)
WORDY = st.sampled_from(
    ["one <think> is spoken of", "<", "<thin air", "w " * 300, "{" * 3000, "Put </think> at the end.", "</think>\n\nso"]
)
DRAFTS = TEXTS | st.sampled_from(
    ["<think>mine</think> same words", "<think></think>" * 1000, "<think>cut off", "Put </think> at the end.", " x\n"]
)


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
    judge: list[tuple[Any, float]] | None
    """What each chain's judge says to one question after the other, and how many seconds it takes."""
    selects: bool
    leaves_after: int | None
    """Steps after which the consumer goes away."""


@dataclass
class Chained:
    """What one chain did."""

    job: Job
    model: Erratic
    deadline: float
    judge: ErraticJudge | None
    steps: list[RefinementEvent] = field(default_factory=list)

    @property
    def completed(self) -> list[RoundCompleted]:
        return [step for step in self.steps if isinstance(step, RoundCompleted)]

    @property
    def outcome(self) -> RefinementResult | None:
        return self.steps[-1] if self.steps and isinstance(self.steps[-1], RefinementResult) else None

    @property
    def wish(self) -> Wish:
        job = self.job
        structured, fails, unchanged_ends = job.structure is not None, job.fail_on_error, unchanged in job.stops
        return Wish(
            job.endpoint,
            job.deltas,
            job.rounds,
            job.draft,
            structured,
            fails,
            unchanged_ends,
            job.max_total_tokens,
            job.draft is not None and job.draft_thinks,
            selects=job.judging is not None and job.judging.selects,
            no_gain=no_gain in job.stops,
            sure=0.9 if sure in job.stops else None,
        )

    @property
    def opinions(self) -> list[Opinion]:
        return [] if self.judge is None else self.judge.opinions

    @property
    def streamed(self) -> str:
        """What has reached the client as the answer."""
        deltas = [step for step in self.steps if isinstance(step, RoundDelta)]
        return "".join(step.delta for step in deltas if self.wish.answers_while_it_runs(step.round))


def acts(pauses: Sequence[float] = (0.0, 0.0, 0.0, 0.01, 1.0, 1e6)) -> st.SearchStrategy[Act]:
    return st.builds(
        Act,
        text=TEXTS | WORDY,
        before=st.sampled_from(THOUGHTS),
        size=st.sampled_from([1, 2, 3, 7, 1000]),
        pause=st.sampled_from(pauses),
        error=st.none() | st.none() | st.sampled_from(ERRORS),
    )


OPTIONS = st.fixed_dictionaries(
    {
        "endpoint": st.sampled_from(get_args(Endpoint)),
        "draft": st.none() | DRAFTS,
        "draft_thinks": st.booleans(),
        "rounds": st.integers(0, 4),
        "max_total_tokens": st.sampled_from([1, 17, 40, 200, *[100_000] * 6]),
        "fail_on_error": st.booleans(),
        "stops": st.sampled_from([(), (unchanged,), (no_gain,), (sure,), (unchanged, no_gain, sure)]),
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
    judge=st.lists(st.tuples(st.sampled_from(OPINIONS), st.sampled_from([0.0, 0.0, 0.01, 1.0, 1e6])), min_size=1),
    selects=st.booleans(),
    leaves_after=st.sampled_from([*[None] * 8, *range(12)]),
)

PLAIN = st.builds(Act, text=st.sampled_from(["a", "b c", "d", '{"a": 1}', "{}", "w " * 40]), size=st.just(3))
JUDGED = st.builds(
    Case,
    acts=st.lists(PLAIN, min_size=1, max_size=5).map(lambda acts: [acts]),
    options=st.fixed_dictionaries(
        {
            "endpoint": st.sampled_from(get_args(Endpoint)),
            "draft": st.sampled_from([None, "a", "mine", "<think>hm</think> mine"]),
            "draft_thinks": st.booleans(),
            "rounds": st.integers(1, 4),
            "max_total_tokens": st.sampled_from([60, 200, *[100_000] * 4]),
            "stops": st.sampled_from([(), (unchanged,), (no_gain,), (sure,), (unchanged, no_gain, sure)]),
            "structure": st.sampled_from([None, None, None, OBJECT]),
            "deltas": st.sampled_from(get_args(Deltas)),
        }
    ),
    seconds=st.sampled_from([2.5, *[1e4] * 5]),
    shutdown=st.none(),
    context=st.just(10_000),
    logprobs=st.none() | st.just(0),
    judge=st.lists(st.tuples(st.sampled_from(OPINIONS), st.sampled_from([0.0, 0.0, 1.0])), min_size=1, max_size=4),
    selects=st.booleans(),
    leaves_after=st.sampled_from([*[None] * 8, *range(12)]),
)
"""Models that behave, and judges that need not."""


def chained(case: Case, number: int) -> Chained:
    own = case.acts[number]
    first = own[0]
    if case.options["draft"] is None and number == 1:  # the second chain's Leader calls tools
        own = [Act(first.text, first.before, first.size, first.pause, calls_tools=True), *own[1:]]
    model = Erratic(own, max_model_len=case.context)
    sampling = SamplingParams(logprobs=case.logprobs)
    rules = case.options["stops"]
    judge = ErraticJudge(case.judge) if case.judge and (case.selects or {no_gain, sure} & {*rules}) else None
    selects = judge is not None and (case.selects or no_gain in rules)
    job = Job(
        id="test",
        model="erratic",
        turns=QUESTION,
        leader_turns=QUESTION,
        draft_source="leader" if case.options["draft"] is None else "client",
        leader=RoleBinding("leader", model, sampling),
        follower=RoleBinding("follower", model, sampling),
        follower_turn="Improve it.",
        received=time.perf_counter(),
        deadline=Deadline.after(case.seconds),
        judging=None if judge is None else Judging(judge, QUESTION, 0.6, selects),
        holds_back=selects,
        **case.options,
    )
    ends = case.seconds if case.shutdown is None else min(case.seconds, case.shutdown)
    return Chained(job, model, ends, judge)


async def consume(case: Case, chains: Sequence[Chained]) -> RequestError | None:
    """Play the chains as an endpoint does; the error that came out, if one did."""
    seen, errors = 0, list[RequestError]()
    async with aclosing(merge_streams([refine(chain.job) for chain in chains])) as steps:
        async for number, step in steps:
            if isinstance(step, RequestError):
                errors.append(step)
                continue
            assert not isinstance(step, Exception), repr(step)
            chains[number].steps.append(step)
            seen += 1
            if seen == case.leaves_after:
                return None
    return errors[0] if errors else None


async def play(case: Case) -> None:
    loop = asyncio.get_running_loop()
    chains = [chained(case, number) for number in range(len(case.acts))]
    if case.shutdown is not None:
        for chain in chains:
            loop.call_at(case.shutdown, chain.job.deadline.bring_forward, case.shutdown)
    error = await consume(case, chains)
    assert [chain.model.running for chain in chains] == [0] * len(chains)
    assert not any(chain.judge.running for chain in chains if chain.judge is not None)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    for chain in chains:
        nobody_sees_thoughts(chain)
        if chain.outcome is not None:
            it_adds_up(chain, chain.outcome)
    if case.leaves_after is None:
        due = [verdict(chain.wish, chain.model.calls, chain.deadline, chain.opinions) for chain in chains]
        for chain, expected in zip(chains, due, strict=True):
            it_is_what_is_due(chain, expected)
        errors = [(type(one), one.code) for one in due if isinstance(one, RequestError)]
        assert (error is not None) == bool(errors)
        assert error is None or (type(error), error.code) in errors


def nobody_sees_thoughts(chain: Chained) -> None:
    for turns in chain.model.seen:
        for turn in turns:
            assert SECRET not in turn.text
            assert turn.token_ids is None or "".join(map(chr, turn.token_ids)) == turn.text
    if chain.job.draft is not None and chain.model.seen:
        draft = chain.job.draft
        assert chain.model.seen[0][-2].text == (read_by_the_follower(draft) if chain.job.draft_thinks else draft)
    assert SECRET not in str(chain.steps)


def it_is_what_is_due(chain: Chained, due: Answer | RequestError) -> None:
    """The oracle is the contract: verdict.py."""
    event(type(due).__name__)
    if isinstance(due, RequestError):
        assert chain.outcome is None, f"an answer, where {due!r} was due"
        return
    assert chain.outcome is not None, f"no answer, where {due} was due"
    report = chain.outcome.refinement
    event(report.stop_reason)
    if report.selection is not None:
        event(f"selected {report.selection.round > 0} of {len(chain.opinions)}")
    assert [one.text for one in report.rounds] == due.texts
    best = due.best
    assert (chain.outcome.text, chain.outcome.finish_reason) == (due.texts[best], due.finish_reasons[best])
    assert report.returned_round == best
    assert report.stop_reason in due.stop_reasons


def it_adds_up(chain: Chained, outcome: RefinementResult) -> None:
    job, report = chain.job, outcome.refinement
    assert outcome.usage == report.usage.total()
    assert outcome.usage.total_tokens - report.usage.judge.total_tokens <= job.max_total_tokens
    assert report.usage.judge.total_tokens == sum(one.tokens for one in chain.opinions)
    assert outcome.usage.total_tokens == outcome.usage.prompt_tokens + outcome.usage.completion_tokens
    best = report.rounds[report.returned_round]
    assert (outcome.text, outcome.finish_reason) == (best.text, best.finish_reason)
    assert report.applied == (report.returned_round > 0)
    assert report.rounds_run == len(report.rounds) - 1 <= job.rounds == report.rounds_requested
    assert [one.round for one in report.rounds] == list(range(len(report.rounds)))
    assert [one.text for one in report.rounds[: len(chain.completed)]] == [one.text for one in chain.completed]
    assert len(report.rounds) - len(chain.completed) <= (1 if chain.streamed else 0)  # a cut answer that stands
    if chain.streamed:
        assert outcome.text == chain.streamed
    if outcome.logprobs and outcome.text:
        assert outcome.text.endswith("".join(one.token for one in outcome.logprobs).lstrip())


@settings(deadline=None, max_examples=400, suppress_health_check=[HealthCheck.too_slow])
@given(CASES)
def test_whatever_the_models_do_the_outcome_is_true_and_nothing_is_left_behind(case: Case) -> None:
    note(str(case))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(case))


@settings(deadline=None, max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(JUDGED)
def test_whatever_a_judge_says_the_answer_is_the_one_that_the_contract_tells(case: Case) -> None:
    note(str(case))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(case))
