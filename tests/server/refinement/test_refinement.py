"""The loop: rounds, early ends, and what the outcome says of them."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import get_args
from weakref import ref

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slhf.wire import RoundCompleted, RoundDelta, RoundStarted, StopReason, StopWhen
from slhf_server.deadline import Deadline
from slhf_server.errors import (
    BadRequest,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineFailed,
    RequestError,
    TokenBudgetExceeded,
)
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, Reply
from slhf_server.refinement.job import Deltas, Job, RoleBinding
from slhf_server.refinement.loop import RefinementEvent, refine
from slhf_server.refinement.state import RefinementResult
from slhf_server.refinement.stops import RULES, Thresholds, rules_of
from slhf_server.refinement.stops.no_gain import no_gain
from slhf_server.refinement.stops.unchanged import unchanged

QUESTION = (Turn("user", "what is it"),)


def a_job(engine: FakeEngine, *, seconds: float = 60.0, **job: object) -> Job:
    """A chat of one question that a Leader drafts and a Follower refines once, with changes."""
    defaults: dict[str, object] = {
        "id": "test",
        "endpoint": "chat",
        "received": time.perf_counter(),
        "model": "fake",
        "turns": QUESTION,
        "leader_turns": QUESTION,
        "draft": None,
        "draft_source": "leader" if job.get("draft") is None else "client",
        "rounds": 1,
        "leader": RoleBinding("leader", engine.leader, SamplingParams()),
        "follower": RoleBinding("follower", engine.follower, SamplingParams()),
        "follower_turn": "Improve it.",
        "deadline": Deadline.after(seconds),
        "max_total_tokens": 10_000,
    }
    return Job(**(defaults | job))  # type: ignore[arg-type]


def play(engine: FakeEngine, *, seconds: float = 60.0, **job: object) -> list[RefinementEvent]:
    """Run one refinement to its end."""

    async def steps() -> list[RefinementEvent]:
        return [step async for step in refine(a_job(engine, seconds=seconds, **job))]

    return asyncio.run(steps())


def outcome(engine: FakeEngine, *, seconds: float = 60.0, **job: object) -> RefinementResult:
    last = play(engine, seconds=seconds, **job)[-1]
    assert isinstance(last, RefinementResult)
    return last


def fails_after(rounds: int, error: RequestError) -> Reply:
    """A reply that goes well for this many completions, then raises."""
    done = 0

    def reply(turns: Sequence[Turn]) -> str | RequestError:
        nonlocal done
        done += 1
        return error if done > rounds else f"text {done}"

    return reply


def test_the_leader_drafts_and_the_follower_sees_conversation_and_latest_text_alone() -> None:
    engine = FakeEngine()
    result = outcome(engine, rounds=2)
    assert [turns for turns, _ in engine.leader.calls] == [QUESTION]
    ask = Turn("user", "Improve it.")
    assert [turns for turns, _ in engine.follower.calls] == [
        (*QUESTION, Turn("assistant", "draft of: what is it"), ask),
        (*QUESTION, Turn("assistant", "better draft of: what is it"), ask),
    ]
    assert result.text == "better better draft of: what is it"
    assert result.refinement.draft_source == "leader"


def test_a_given_draft_is_round_zero_and_the_leader_is_not_asked() -> None:
    engine = FakeEngine()
    result = outcome(engine, draft="my text", leader=None)
    assert engine.leader.calls == []
    assert [(r.round, r.role, r.text) for r in result.refinement.rounds] == [
        (0, "client", "my text"),
        (1, "follower", "better my text"),
    ]
    assert result.refinement.draft_source == "client"


def test_no_rounds_return_the_draft_byte_for_byte() -> None:
    draft = " \n\u00e9\u0301<|im_end|>\t "
    result = outcome(FakeEngine(), draft=draft, rounds=0)
    assert (result.text, result.refinement.applied, result.refinement.stop_reason) == (draft, False, "disabled")


def test_every_round_is_started_streamed_and_completed_in_order() -> None:
    kinds = [(type(s), getattr(s, "round", None)) for s in play(FakeEngine(lambda turns: "a b"), deltas="all")]
    assert kinds == [
        (RoundStarted, 0),
        (RoundDelta, 0),
        (RoundDelta, 0),
        (RoundCompleted, 0),
        (RoundStarted, 1),
        (RoundDelta, 1),
        (RoundDelta, 1),
        (RoundCompleted, 1),
        (RefinementResult, None),
    ]


@pytest.mark.parametrize(("deltas", "streamed"), [("none", set()), ("last", {2}), ("all", {0, 1, 2})])
def test_only_the_rounds_somebody_reads_are_streamed(deltas: Deltas, streamed: set[int]) -> None:
    steps = play(FakeEngine(), rounds=2, deltas=deltas)
    assert {step.round for step in steps if isinstance(step, RoundDelta)} == streamed


def test_it_stops_when_the_follower_returns_its_draft_unchanged() -> None:
    result = outcome(FakeEngine(lambda turns: "same"), rounds=5, stops=(unchanged,))
    assert (result.refinement.stop_reason, result.refinement.rounds_run) == ("unchanged", 1)


def test_every_stop_rule_has_a_value_of_the_option_stop_when_and_is_the_reason_it_gives() -> None:
    assert set(RULES) == set(get_args(StopWhen)) <= set(get_args(StopReason))
    assert rules_of(RULES, Thresholds()) == (unchanged, no_gain)
    assert len(rules_of(RULES, Thresholds(edit_ratio=0.1, sure=0.9))) == len(RULES)
    assert rules_of((), Thresholds(edit_ratio=0.1, sure=0.9)) == ()


@pytest.mark.parametrize("finished", [1, 2, 3])
def test_an_error_in_a_later_round_returns_the_latest_finished_text(finished: int) -> None:
    engine = FakeEngine()
    engine.leader._reply = engine.follower._reply = fails_after(finished, EngineFailed("boom"))
    result = outcome(engine, rounds=5)
    assert result.text == f"text {finished}"
    assert (result.refinement.stop_reason, result.refinement.returned_round) == ("error", finished - 1)


def test_an_error_is_raised_where_errors_shall_fail_or_nothing_is_finished() -> None:
    with pytest.raises(EngineFailed):
        outcome(FakeEngine(fails_after(1, EngineFailed("boom"))), fail_on_error=True, rounds=3)
    with pytest.raises(EngineFailed):
        outcome(FakeEngine(fails_after(0, EngineFailed("boom"))))


@pytest.mark.parametrize("nothing", ["", " \n", "<think>and so on"])
def test_a_follower_that_writes_nothing_does_not_replace_the_text_there_is(nothing: str) -> None:
    result = outcome(FakeEngine(lambda turns: nothing), draft="mine", rounds=3)
    assert (result.text, result.refinement.stop_reason, result.refinement.rounds_run) == ("mine", "error", 0)
    with pytest.raises(EngineFailed, match="wrote nothing"):
        outcome(FakeEngine(lambda turns: nothing), draft="mine", fail_on_error=True)


def keeping(engine: FakeEngine) -> RoleBinding:
    return RoleBinding("follower", engine.follower, SamplingParams(), keeps_by_silence=True)


@pytest.mark.parametrize(
    "silence", ["<think>It stays.</think>", "<think>a</think>\n<think>b</think> \n", "<think></think>"]
)
@pytest.mark.parametrize("deltas", ["none", "last", "all"])
def test_a_follower_that_keeps_by_silence_returns_the_draft_to_the_letter(silence: str, deltas: Deltas) -> None:
    engine, draft = FakeEngine(lambda turns: silence), " mine,\n```\nmine\t"
    steps = play(engine, draft=draft, follower=keeping(engine), rounds=2, deltas=deltas)
    result = steps[-1]
    assert isinstance(result, RefinementResult)
    assert (result.text, result.finish_reason, result.logprobs) == (draft, "stop", ())
    assert (result.refinement.stop_reason, result.refinement.rounds_run) == ("rounds_done", 2)
    rounds = result.refinement.rounds[1:]
    assert [(one.text, one.edit_ratio) for one in rounds] == [(draft, 0.0)] * 2
    assert all(one.usage.completion_tokens > 0 for one in rounds)
    for number in {"none": [], "last": [2], "all": [1, 2]}[deltas]:
        assert "".join(step.delta for step in steps if isinstance(step, RoundDelta) and step.round == number) == draft


def test_a_draft_that_is_kept_by_silence_is_unchanged() -> None:
    engine = FakeEngine(lambda turns: "<think>It stays.</think>")
    result = outcome(engine, draft="mine", follower=keeping(engine), rounds=5, stops=(unchanged,))
    assert (result.text, result.refinement.stop_reason, result.refinement.rounds_run) == ("mine", "unchanged", 1)


def test_what_follows_the_thoughts_takes_the_drafts_place() -> None:
    engine = FakeEngine(lambda turns: "<think>It changes.</think>\nyours")
    assert outcome(engine, draft="mine", follower=keeping(engine)).text == "yours"


@pytest.mark.parametrize("nothing", ["", " \n", "<think>and so on"])
def test_only_whole_thoughts_keep_by_silence(nothing: str) -> None:
    engine = FakeEngine(lambda turns: nothing)
    assert outcome(engine, draft="mine", follower=keeping(engine)).refinement.stop_reason == "error"


def test_thoughts_that_a_limit_cuts_at_their_end_keep_nothing() -> None:
    engine = FakeEngine(lambda turns: "<think>a b</think> c d")
    follower = replace(keeping(engine), sampling=SamplingParams(max_tokens=2))
    assert outcome(engine, draft="mine", follower=follower).refinement.stop_reason == "error"


def test_thoughts_without_a_word_are_nothing_where_the_bundle_does_not_keep_by_silence() -> None:
    result = outcome(FakeEngine(lambda turns: "<think>It stays.</think>"), draft="mine")
    assert (result.text, result.refinement.stop_reason) == ("mine", "error")


def test_the_deadline_returns_the_best_finished_text() -> None:
    engine = FakeEngine(token_seconds=0.02)
    result = outcome(engine, seconds=0.2, rounds=500)
    assert result.refinement.stop_reason == "deadline"
    assert result.text == result.refinement.rounds[-1].text
    assert engine.follower.running == 0


def test_a_deadline_before_the_first_text_is_an_error() -> None:
    engine = FakeEngine(token_seconds=10)
    with pytest.raises(DeadlineExceeded):
        outcome(engine, seconds=0.05)
    assert engine.leader.running == 0


def test_a_deadline_that_passed_in_the_queue_returns_the_clients_draft() -> None:
    result = outcome(FakeEngine(), seconds=-1, draft="mine")
    assert (result.text, result.refinement.stop_reason) == ("mine", "deadline")


def test_the_token_budget_discards_the_round_it_cuts_but_counts_its_tokens() -> None:
    result = outcome(FakeEngine(lambda turns: "w " * 49 + "w"), draft="d", rounds=3, max_total_tokens=30)
    assert (result.text, result.refinement.stop_reason, result.refinement.rounds_run) == ("d", "token_budget", 0)
    assert result.usage.total_tokens == 30


def test_a_draft_that_the_token_budget_cuts_is_the_answer() -> None:
    result = outcome(FakeEngine(lambda turns: "w " * 49 + "w"), max_total_tokens=13)
    assert (result.finish_reason, result.refinement.stop_reason) == ("length", "token_budget")
    assert result.text.split() == ["w"] * 10
    with pytest.raises(TokenBudgetExceeded):
        outcome(FakeEngine(), max_total_tokens=2)


def test_a_leaders_draft_too_long_to_refine_is_the_answer() -> None:
    result = outcome(FakeEngine(lambda turns: "w " * 99 + "w", max_model_len=20), rounds=3)
    assert (result.refinement.stop_reason, result.refinement.returned_round) == ("context_length", 0)
    assert result.text.split() == ["w"] * 17


def test_a_clients_draft_that_does_not_fit_is_refused_with_both_lengths() -> None:
    with pytest.raises(ContextLengthExceeded, match=r"30 tokens.* 105 tokens"):
        outcome(FakeEngine(max_model_len=30), draft="d " * 99 + "d")


def test_a_streamed_answer_cut_by_a_limit_stands_as_it_is() -> None:
    engine = FakeEngine(lambda turns: "w " * 499 + "w", token_seconds=0.01)
    steps = play(engine, seconds=0.2, draft="d", deltas="last")
    sent = "".join(step.delta for step in steps if isinstance(step, RoundDelta))
    result = steps[-1]
    assert isinstance(result, RefinementResult)
    assert sent
    assert result.text == sent
    assert (result.finish_reason, result.refinement.stop_reason) == ("length", "deadline")


def test_a_streamed_answer_cut_by_an_error_is_an_error() -> None:
    with pytest.raises(EngineFailed):
        play(FakeEngine(lambda turns: ("half a text", EngineFailed("boom"))), draft="d", deltas="last")


def test_closing_the_generator_closes_the_completion() -> None:
    async def abandon() -> None:
        engine = FakeEngine(token_seconds=10)
        steps = refine(a_job(engine))
        await anext(steps)
        waiting = asyncio.ensure_future(_next(steps))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert engine.leader.running == 1
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        await steps.aclose()
        assert engine.leader.running == 0

    async def _next(steps: object) -> object:
        return await anext(steps)  # type: ignore[call-overload]

    asyncio.run(abandon())


@settings(deadline=None)
@given(
    rounds=st.integers(0, 5),
    draft=st.none() | st.text(max_size=20),
    fails_at=st.integers(0, 7),
    error=st.sampled_from([EngineFailed("boom"), BadRequest("no"), TokenBudgetExceeded("spent")]),
    budget=st.integers(1, 60),
)
def test_whatever_happens_the_outcome_tells_the_truth(
    rounds: int, draft: str | None, fails_at: int, error: RequestError, budget: int
) -> None:
    engine = FakeEngine()
    engine.leader._reply = engine.follower._reply = fails_after(fails_at, error)
    try:
        result = outcome(engine, rounds=rounds, draft=draft, max_total_tokens=budget)
    except RequestError:
        assert draft is None or fails_at == 0 or isinstance(error, BadRequest)
        return
    report = result.refinement
    assert result.usage == report.usage.total()
    assert result.text == report.rounds[report.returned_round].text
    assert report.applied == (report.returned_round > 0)
    assert report.rounds_run == len(report.rounds) - 1 <= rounds
    assert (report.stop_reason in ("rounds_done", "disabled")) == (report.rounds_run == rounds)
    assert result.usage.total_tokens <= budget


def test_a_refinement_that_has_ended_leaves_no_timer_for_its_deadline() -> None:
    async def scenario() -> None:
        job = a_job(FakeEngine(lambda turns: "text"))
        known = ref(job.deadline)
        async for _ in refine(job):
            pass
        del job
        assert known() is None

    asyncio.run(scenario())
