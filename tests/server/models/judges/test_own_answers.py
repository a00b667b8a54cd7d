"""A judge that answers for itself: what it writes sees neither text, and what is counted is the contract's."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack

import pytest
from prometheus_client import CollectorRegistry

from slhf_server.errors import ContextLengthExceeded, EngineFailed, RequestError
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, FakeModel, Said
from slhf_server.models.judge import Judge, Verdict
from slhf_server.models.judges.kinds import open_judges
from slhf_server.models.judges.own_answers import OwnAnswersJudge
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY
from slhf_server.settings.judging import JudgeSettings, OwnAnswersSettings

TURNS = (Turn("system", "Be brief."), Turn("user", "How many eggs has she?"))


def leader(*says: Said, token_seconds: float = 0, max_model_len: int = 4096) -> FakeModel:
    """Says one after the other."""
    left = iter(says)
    return FakeModel("fake", lambda _: next(left), token_seconds=token_seconds, max_model_len=max_model_len)


def judge(model: FakeModel, count: int, max_tokens: int = 50) -> OwnAnswersJudge:
    return OwnAnswersJudge("votes", model, OwnAnswersSettings(count=count, max_tokens=max_tokens))


def verdict(old: str, new: str, *says: Said) -> Verdict:
    return asyncio.run(judge(leader(*says), len(says)).compare(TURNS, old, new, request_id="run-1-judge"))


def test_the_result_that_more_own_answers_give_is_the_better_one() -> None:
    """By the rule of succession, of those that give one of both: (k + 1) / (n + 2). tests/clients has all cases."""
    said = verdict("She has 6.", "She has 7.", "7", "It is 7.", "6", "Who knows?")
    assert said.p == pytest.approx(3 / 5)
    assert said.consistent is None


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("She has 6.", "Six times one is 6. So she has 6."),  # one result, in other words
        ("6.0", "6"),
        ("paris.", "Paris"),
        (
            "She has 6.",
            "def eggs(hens):\n    return [hen.egg for hen in hens if hen is not None and hen.egg is not None]",
        ),
        ("", "She has 6."),
        ("...", "She has 6."),
    ],
)
def test_where_there_is_nothing_to_compare_nothing_is_written(old: str, new: str) -> None:
    model = leader()
    one = judge(model, 8)
    assert one.tokens(TURNS, old, new) == 0
    assert asyncio.run(one.compare(TURNS, old, new, request_id="run-1-judge")) == Verdict(None)
    assert model.calls == []


def test_own_answers_see_the_conversation_alone_and_the_same_noise_in_every_request() -> None:
    seen: list[list[tuple[Sequence[Turn], SamplingParams]]] = []
    for request in ("run1-1-judge", "run2-1-judge"):
        model = leader("7", "7", "7")
        asyncio.run(judge(model, 3).compare(TURNS, "6", "7", request_id=request, priority=4))
        seen.append(model.calls)
    first, second = seen
    for calls, salt in ((first, "run1"), (second, "run2")):
        assert [tuple(turns) for turns, _ in calls] == [TURNS] * 3
        for _, sampling in calls:
            assert (sampling.temperature, sampling.max_tokens, sampling.priority) == (0.5, 50, 4)
            assert (sampling.cache_salt, sampling.structure, sampling.tools) == (salt, None, None)
    seeds = [sampling.seed for _, sampling in first]
    assert len({*seeds}) == 3
    assert None not in seeds
    assert seeds == [sampling.seed for _, sampling in second]


def test_what_came_to_no_end_or_reads_a_draft_does_not_count_and_is_paid_for() -> None:
    said = verdict("6", "7", "word " * 60 + "6", "<think>6, or 7?</think> It is 7.", "The draft: 6\n[1] 6", " ")
    assert said.p == pytest.approx(2 / 3)
    assert said.completion_tokens > 50  # the long one was cut
    assert said.prompt_tokens == 4 * sum(len(turn.text.split()) for turn in TURNS)


def test_it_takes_as_much_as_its_answers_may() -> None:
    """A token for each four letters of the conversation, and all that each answer may be long."""
    letters = sum(len(turn.text) for turn in TURNS)
    assert judge(leader(), 8).tokens(TURNS, "6", "7") == 8 * (letters // 4 + 50)


@pytest.mark.parametrize("fails", [EngineFailed("broken"), ContextLengthExceeded(50, 40)])
def test_one_that_fails_fails_the_verdict_and_ends_the_others(fails: RequestError) -> None:
    model = leader("7 " * 40, fails, "7 " * 40, token_seconds=0.05)
    with pytest.raises(type(fails)):
        asyncio.run(judge(model, 3).compare(TURNS, "6", "7", request_id="run-1-judge"))
    assert model.running == 0


def test_whoever_gives_up_waiting_ends_them_all() -> None:
    model = leader(*["7 " * 1000] * 4, token_seconds=0.01)

    async def wait() -> None:
        await asyncio.wait_for(judge(model, 4, 2000).compare(TURNS, "6", "7", request_id="run-1-judge"), 0.1)

    with pytest.raises(TimeoutError):
        asyncio.run(wait())
    assert len(model.calls) == 4
    assert model.running == 0


def test_it_is_the_engine_of_this_process_that_answers() -> None:
    engine = FakeEngine()

    async def opened() -> Judge:
        async with AsyncExitStack() as closing:
            settings = {"votes": JudgeSettings.model_validate({"own_answers": {}})}
            return open_judges(settings, {}, engine, UpstreamMetrics(CollectorRegistry(), LATENCY), closing)["votes"]

    one = asyncio.run(opened())
    assert isinstance(one, OwnAnswersJudge)
    asyncio.run(one.compare(TURNS, "6", "7", request_id="run-1-judge"))
    assert len(engine.leader.calls) == 8
    assert engine.follower.calls == []
