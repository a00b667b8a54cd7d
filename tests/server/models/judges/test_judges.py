"""Judges over HTTP, against a server that answers as told, and one on a model of ours."""

import asyncio
import math
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from slhf_server.errors import EngineFailed, RequestError, UpstreamFailed, UpstreamUnavailable
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, FakeModel
from slhf_server.models.judge import Judge, Verdict
from slhf_server.models.judges.kinds import open_judges
from slhf_server.models.judges.language_model import LanguageModelJudge
from slhf_server.models.upstream.client import Upstream
from slhf_server.models.upstream.counters import UpstreamMetrics
from slhf_server.observability.metrics import LATENCY
from slhf_server.settings.endpoints import UpstreamSettings
from slhf_server.settings.judging import JudgeSettings
from tests.server.models.judges.canned import Canned, canned, prefers, refuses, said

TURNS = (Turn("system", "Be brief."), Turn("user", "Why?"))
PATIENT = {"max_retries": 0, "breaker_failures": 1000}


def verdicts(server: Canned, settings: dict[str, Any], *pairs: tuple[str, str]) -> list[Verdict]:
    """What the judge `house` of these settings says of each old and new text."""

    async def ask() -> list[Verdict]:
        metrics = UpstreamMetrics(CollectorRegistry(), LATENCY)
        big = UpstreamSettings(base_url=f"{server.url}/v1", model="big", api_key="sk-1", **PATIENT)
        upstream = Upstream("big", big, metrics)
        async with AsyncExitStack() as closing:
            closing.push_async_callback(upstream.close)
            judges = {"house": JudgeSettings.model_validate(settings)}
            judge = open_judges(judges, {"big": upstream}, FakeEngine(), metrics, closing)["house"]
            assert judge.name == "house"
            return [await judge.compare(TURNS, old, new, request_id="run-1-judge") for old, new in pairs]

    return asyncio.run(ask())


def by_upstream(server: Canned, *pairs: tuple[str, str]) -> list[Verdict]:
    return verdicts(server, {"upstream": "big"}, *pairs)


def by_reward(server: Canned, *pairs: tuple[str, str], **settings: Any) -> list[Verdict]:
    return verdicts(server, {"reward": {"base_url": f"{server.url}/rewards", **PATIENT, **settings}}, *pairs)


def test_an_upstream_is_asked_for_one_letter_in_both_orders() -> None:
    with canned(prefers(len)) as server:
        (verdict,) = by_upstream(server, ("old", "newer"))
    assert verdict.p == pytest.approx(1 / (1 + math.exp(-2)))
    assert (verdict.consistent, verdict.prompt_tokens, verdict.completion_tokens) == (True, 60, 2)
    quoted = sorted(body["messages"][0]["content"].partition("[Answer A]\n")[2][:3] for body in server.asked)
    assert quoted == ["new", "old"]
    for body in server.asked:
        assert (body["model"], body["temperature"], body["logprobs"], body["top_logprobs"]) == ("big", 0, True, 20)
        assert body["max_completion_tokens"] == 8
        assert body["messages"][0]["content"].count("system: Be brief.\n\nuser: Why?") == 1
    assert set(server.keys) == {"Bearer sk-1"}


def test_p_is_the_mean_of_both_orders() -> None:
    """One that leans to the first place by 1 nat, and likes the new text by 2: +3 and -1 in the two orders."""

    def leans(body: Any) -> tuple[int, Any]:
        first = body["messages"][0]["content"].partition("[Answer A]\n")[2].startswith("new")
        p = 1 / (1 + math.exp(-(1 + (2 if first else -2))))
        return 200, said("A" if p > 0.5 else "B", {"A": p, "B": 1 - p})

    with canned(leans) as server:
        (verdict,) = by_upstream(server, ("old", "new"))
    sigmoid: Callable[[float], float] = lambda x: 1 / (1 + math.exp(-x))  # noqa: E731
    assert verdict.p == pytest.approx((sigmoid(3) + 1 - sigmoid(-1)) / 2)
    assert verdict.consistent is True


def test_where_the_orders_contradict_each_other_it_abstains() -> None:
    with canned(lambda body: (200, said("A", {"A": 0.9, "B": 0.1}))) as server:
        (verdict,) = by_upstream(server, ("old", "new"))
    assert (verdict.p, verdict.consistent, verdict.prompt_tokens) == (None, False, 60)


@pytest.mark.parametrize("text", ["I cannot say.", "", "Both"])
def test_where_nothing_can_be_read_it_abstains(text: str) -> None:
    with canned(lambda body: (200, said(text))) as server:
        (verdict,) = by_upstream(server, ("old", "new"))
    assert (verdict.p, verdict.consistent) == (None, None)


def test_an_upstream_without_log_probabilities_is_read_by_its_letter() -> None:
    with canned(prefers(len, logprobs=False)) as server:
        better, worse = by_upstream(server, ("old", "newer"), ("older", "new"))
    assert (better.p, better.consistent, worse.p) == (1.0, True, 0.0)


@pytest.mark.parametrize("name", ["logprobs", "top_logprobs", "temperature"])
def test_an_upstream_that_refuses_what_the_judge_would_like_is_asked_without_it_from_then_on(name: str) -> None:
    with canned(refuses(name, prefers(len, logprobs=name == "temperature"))) as server:
        first, second = by_upstream(server, ("old", "newer"), ("old", "newer"))
    assert first.p is not None
    assert first.p > 0.8
    assert second == first
    assert [name in body for body in server.asked] == [True, True, False, False, False, False]


def test_an_upstream_that_fails_is_no_verdict() -> None:
    with canned(lambda body: (500, {})) as server, pytest.raises(UpstreamUnavailable):
        by_upstream(server, ("old", "new"))


def test_a_reward_model_is_asked_as_training_asks_it() -> None:
    with canned(reward=lambda text: {"old": 1.0, "new": 3.0}[text]) as server:
        (verdict,) = by_reward(server, ("old", "new"), scale=2.0, api_key="rm-1")
    assert verdict.p == pytest.approx(1 / (1 + math.exp(-1)))
    assert verdict == Verdict(verdict.p)
    chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]
    assert server.asked == [{"conversations": [[*chat, {"role": "assistant", "content": t}] for t in ("old", "new")]}]
    assert server.keys == ["Bearer rm-1"]


def test_a_reward_model_that_abstains_or_has_no_bounds_gives_no_number_beyond_0_and_1() -> None:
    rewards = {"old": 0.0, "none": None, "huge": 1e99, "tiny": -1e99}
    with canned(reward=rewards.__getitem__) as server:
        abstains, huge, tiny = by_reward(server, ("old", "none"), ("old", "huge"), ("old", "tiny"))
    assert (abstains.p, huge.p, tiny.p) == (None, 1.0, 0.0)


@pytest.mark.parametrize(("status", "error"), [(500, UpstreamUnavailable), (404, UpstreamUnavailable)])
def test_a_reward_model_that_fails_is_no_verdict(status: int, error: type[RequestError]) -> None:
    with canned() as server:
        server.status = status
        with pytest.raises(error):
            by_reward(server, ("old", "new"))


@pytest.mark.parametrize("reward", ["high", [1], True, 1e200])
def test_a_reward_that_is_no_number_is_no_verdict(reward: Any) -> None:
    with canned(reward=lambda text: reward) as server, pytest.raises(UpstreamFailed):
        by_reward(server, ("old", "new"))


def test_a_question_that_fails_ends_the_other_one_too() -> None:
    started: list[Sequence[Turn]] = []

    def reply(turns: Sequence[Turn]) -> RequestError | str:
        started.append(turns)
        return EngineFailed("boom") if len(started) == 1 else "w " * 1000

    model = FakeModel("fake", reply, token_seconds=0.01, max_model_len=4096)
    judge: Judge = LanguageModelJudge("own", model, max_tokens=1000)
    with pytest.raises(EngineFailed):
        asyncio.run(judge.compare(TURNS, "old", "new", request_id="r-1"))
    assert model.running == 0


def test_questions_on_our_own_model_share_a_prefix_cache_of_their_own() -> None:
    """What another key's judge has read would otherwise show in `cached_tokens`."""
    model = FakeModel("fake", lambda turns: "A", token_seconds=0, max_model_len=4096)
    judge = LanguageModelJudge("own", model, max_tokens=1)
    for run in ("one", "two"):
        asyncio.run(judge.compare(TURNS, "old", "new", request_id=f"{run}-1-judge"))
    assert [sampling.cache_salt for _, sampling in model.calls] == ["one", "one", "two", "two"]


@pytest.mark.parametrize("switch", ["enable_thinking", "thinking"])
def test_our_own_model_does_not_think_where_its_template_has_a_switch(switch: str) -> None:
    engine = FakeEngine(lambda turns: "A", template_options=(switch,))
    settings = {"own": JudgeSettings(engine="own")}
    metrics = UpstreamMetrics(CollectorRegistry(), LATENCY)
    judge = open_judges(settings, {}, engine, metrics, AsyncExitStack())["own"]
    asyncio.run(judge.compare(TURNS, "old", "new", request_id="run-1-judge"))
    assert [sampling.template_options for _, sampling in engine.leader.calls] == [{switch: False}] * 2
    assert [sampling.max_tokens for _, sampling in engine.leader.calls] == [1, 1]
    assert engine.follower.calls == []
