"""The answer is the best text by a judge, the draft among them; and rules that ask one (docs/api.md, "Selection")."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from slhf.wire import RoundCompleted, RoundJudged, Selection
from slhf_server.errors import EngineFailed, UpstreamUnavailable
from slhf_server.models.base import SamplingParams
from slhf_server.models.fake import FakeEngine, Said
from slhf_server.models.judge import Verdict
from slhf_server.models.structured_output.response_format import StructuredOutput
from slhf_server.refinement.job import Judging, RoleBinding
from slhf_server.refinement.loop import refine
from slhf_server.refinement.state import RefinementResult
from slhf_server.refinement.stops.judge_sure import judge_sure
from slhf_server.refinement.stops.no_gain import no_gain
from slhf_server.refinement.stops.small_edit import small_edit
from tests.conftest import until
from tests.server.refinement.fake_judge import FakeJudge, Opinion
from tests.server.refinement.test_refinement import QUESTION, a_job, outcome, play

HUGE = 10_000


def writes(*texts: str) -> FakeEngine:
    """A Follower that writes these one after the other."""
    left = iter(texts)
    return FakeEngine(lambda turns: next(left))


def judge(**better: Opinion) -> FakeJudge:
    """What it says of each new text."""
    return FakeJudge(lambda old, new: better[new])


def judged(engine: FakeEngine, by: FakeJudge, *, selects: bool = True, **job: Any) -> RefinementResult:
    return outcome(engine, draft="d", judging=Judging(by, QUESTION, 0.6, selects), **job)


def of(result: RefinementResult) -> tuple[str, int, bool, str]:
    report = result.refinement
    return result.text, report.returned_round, report.applied, report.stop_reason


def test_the_best_text_is_the_answer_and_not_the_last_one() -> None:
    result = judged(writes("a", "b", "c"), judge(a=0.9, b=0.2, c=0.4), rounds=3)
    assert of(result) == ("a", 1, True, "rounds_done")
    assert result.refinement.selection == Selection(
        judge="house", round=1, p=[0.9, 0.2, 0.4], consistent=[True, True, True]
    )


def test_a_text_that_was_judged_is_not_judged_again_in_the_next_round() -> None:
    by = judge(a=0.3, b=0.7)
    result = judged(writes("a", "a", "b"), by, rounds=3)
    assert by.asked == [("d", "a"), ("d", "b")]
    assert result.refinement.selection is not None
    assert (result.text, result.refinement.selection.p) == ("b", [0.3, None, 0.7])


def test_a_later_text_is_compared_with_the_best_before_it_and_the_follower_goes_on_from_the_latest() -> None:
    engine, by = writes("a", "b", "c"), judge(a=0.9, b=0.2, c=0.8)
    assert judged(engine, by, rounds=3).text == "c"
    assert by.asked == [("d", "a"), ("a", "b"), ("a", "c")]
    assert [turns[-2].text for turns, _ in engine.follower.calls] == ["d", "a", "b"]


def test_the_judge_is_asked_at_the_requests_priority() -> None:
    engine, by = writes("a"), judge(a=0.9)
    judged(engine, by, follower=RoleBinding("follower", engine.follower, SamplingParams(priority=7)))
    assert by.priorities == [7]


@pytest.mark.parametrize(("p", "wins"), [(0.6, True), (0.59, False), (0.5, False), (None, False)])
def test_a_text_must_win_by_the_margin_and_where_the_judge_abstains_the_draft_stays(
    p: float | None, wins: bool
) -> None:
    result = judged(writes("a"), judge(a=p))
    assert of(result) == (("a", 1, True, "rounds_done") if wins else ("d", 0, False, "rounds_done"))


@pytest.mark.parametrize("error", [UpstreamUnavailable("away"), EngineFailed("boom"), ZeroDivisionError("a bug")])
@pytest.mark.parametrize("fails", [False, True])
def test_a_judge_that_fails_never_fails_the_refinement(error: Exception, fails: bool) -> None:
    result = judged(writes("a", "b"), judge(a=error, b=0.9), rounds=2, fail_on_error=fails)
    assert of(result) == ("b", 2, True, "rounds_done")
    assert result.refinement.selection is not None
    assert (result.refinement.selection.p, result.refinement.selection.consistent) == ([None, 0.9], [None, True])


def test_what_came_of_each_round_is_an_event_behind_it() -> None:
    by = judge(a=Verdict(None, False, 7), b=UpstreamUnavailable("away"))
    steps = play(writes("a", "b"), draft="d", rounds=2, judging=Judging(by, QUESTION, 0.6, True))
    told = [step for step in steps if isinstance(step, RoundJudged)]
    assert [(one.round, one.against, one.p, one.consistent, one.failed) for one in told] == [
        (1, 0, None, False, False),
        (2, 0, None, None, True),
    ]
    behind = [steps[steps.index(one) - 1] for one in told]
    assert [one.round for one in behind if isinstance(one, RoundCompleted)] == [1, 2]


def test_verdicts_are_a_part_of_the_usage_so_that_the_sum_stays_true() -> None:
    result = judged(writes("a", "b"), judge(a=0.9, b=0.9), rounds=2)
    usage = result.refinement.usage
    assert (usage.judge.prompt_tokens, usage.judge.completion_tokens) == (40, 4)
    assert usage.judge.prompt_tokens_details.cached_tokens == 10
    each = [usage.draft, *usage.rounds, usage.judge]
    assert result.usage.total_tokens == sum(one.total_tokens for one in each)


def test_the_judges_time_is_no_overhead() -> None:
    by = FakeJudge(lambda old, new: 0.9, seconds=0.05)
    steps = play(writes("a"), draft="d", judging=Judging(by, QUESTION, 0.6, True))
    (told,) = [step for step in steps if isinstance(step, RoundJudged)]
    result = steps[-1]
    assert isinstance(result, RefinementResult)
    assert result.overhead_ms <= result.refinement.duration_ms - told.latency_ms


def test_the_same_text_is_not_put_to_the_judge() -> None:
    by = judge()
    assert of(judged(writes("d"), by)) == ("d", 0, False, "rounds_done")
    assert by.asked == []


def test_a_judge_is_shown_what_was_asked_and_named_by_the_refinement() -> None:
    by = judge(a=0.9)
    judged(writes("a"), by, run_id="run")
    assert by.turns == [QUESTION]
    assert by.ids[0].startswith("run-")


def test_no_gain_ends_with_the_best_text_and_keeps_the_draft_if_that_is_it() -> None:
    engine = writes("a")
    assert of(judged(engine, judge(a=0.3), rounds=4, stops=(no_gain,))) == ("d", 0, False, "no_gain")
    assert of(judged(writes("a", "b"), judge(a=0.8, b=None), rounds=4, stops=(no_gain,))) == ("a", 1, True, "no_gain")


def test_no_gain_says_so_of_the_last_round_too() -> None:
    assert of(judged(writes("a"), judge(a=0.3), rounds=1, stops=(no_gain,))) == ("d", 0, False, "no_gain")
    assert of(judged(writes("a"), judge(a=0.7), rounds=1, stops=(no_gain,))) == ("a", 1, True, "rounds_done")


def test_no_gain_goes_on_where_the_judge_fails() -> None:
    result = judged(writes("a", "b"), judge(a=EngineFailed("boom"), b=0.9), rounds=2, stops=(no_gain,))
    assert of(result) == ("b", 2, True, "rounds_done")


def test_no_gain_ends_at_a_round_that_changed_nothing() -> None:
    assert judged(writes("d"), judge(), rounds=3, stops=(no_gain,)).refinement.stop_reason == "no_gain"


def test_judge_sure_ends_where_the_judge_is_sure() -> None:
    result = judged(writes("a", "b"), judge(a=0.8, b=0.95), rounds=5, stops=(judge_sure(0.9),))
    assert of(result) == ("b", 2, True, "judge_sure")


def test_judge_sure_alone_returns_the_last_round_and_does_not_ask_of_it() -> None:
    by = judge(a=0.1)
    result = judged(writes("a", "b"), by, selects=False, rounds=2, stops=(judge_sure(0.9),))
    assert of(result) == ("b", 2, True, "rounds_done")
    assert by.asked == [("d", "a")]
    assert result.refinement.selection == Selection(judge="house", round=2, p=[0.1, None], consistent=[True, None])


def test_small_edit_ends_where_little_was_changed() -> None:
    ten = "a b c d e f g h i j"
    result = outcome(writes(f"{ten} k", f"{ten} k", "no more"), draft="a", rounds=3, stops=(small_edit(0.1),))
    assert (result.refinement.stop_reason, result.refinement.rounds_run) == ("small_edit", 2)


def test_a_deadline_that_passes_while_the_judge_is_asked_ends_with_the_best_text() -> None:
    by = FakeJudge(lambda old, new: 0.9, seconds=HUGE)
    result = judged(writes("a"), by, seconds=0.05)
    assert of(result) == ("d", 0, False, "deadline")
    assert result.refinement.rounds_run == 1
    assert by.running == 0


def test_an_early_end_returns_the_best_text() -> None:
    left: list[Said] = ["a", EngineFailed("boom")]
    engine = FakeEngine(lambda turns: left.pop(0))
    assert of(judged(engine, judge(a=0.2), rounds=3)) == ("d", 0, False, "error")


def test_a_judge_whose_questions_are_over_the_budget_is_not_asked() -> None:
    by = FakeJudge(lambda old, new: 0.9)
    result = judged(writes("w" * 400), by, max_total_tokens=100)
    assert (result.text, by.asked) == ("d", [])


def test_what_a_judge_has_cost_is_gone_from_the_budget() -> None:
    by = FakeJudge(lambda old, new: Verdict(0.9, True, 10_000, 0, 2))
    result = judged(writes("a", "b"), by, rounds=2, max_total_tokens=9_000)
    assert of(result) == ("a", 1, True, "token_budget")


def test_a_draft_that_is_no_valid_answer_is_not_gone_back_to() -> None:
    by = judge()
    structure = StructuredOutput({"type": "json_object"})
    assert judged(writes('{"a": 1}'), by, structure=structure).text == '{"a": 1}'
    assert by.asked == []


def test_a_draft_without_its_thoughts_is_judged_and_returned_as_it_was_sent() -> None:
    by = judge(a=0.1)
    draft = "<think>hm</think>mine"
    result = outcome(writes("a"), draft=draft, draft_thinks=True, judging=Judging(by, QUESTION, 0.6, True))
    assert (by.asked, result.text) == ([("mine", "a")], draft)


def test_log_probabilities_are_those_of_the_answer() -> None:
    engine = writes("one two", "three")
    follower = RoleBinding("follower", engine.follower, SamplingParams(logprobs=0))
    by = FakeJudge(lambda old, new: 0.9 if new == "one two" else 0.1)
    result = judged(engine, by, rounds=2, follower=follower)
    assert [token.token for token in result.logprobs] == ["one", " two"]


def test_a_consumer_that_leaves_ends_the_judges_work() -> None:
    by = FakeJudge(lambda old, new: 0.9, seconds=HUGE)

    async def leave() -> None:
        async with asyncio.timeout(10):
            job = a_job(writes("a"), draft="d", judging=Judging(by, QUESTION, 0.6, True))

            async def read() -> Sequence[object]:
                return [step async for step in refine(job)]

            task = asyncio.create_task(read())
            await until(lambda: by.running == 1)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    asyncio.run(leave())
    assert by.running == 0
