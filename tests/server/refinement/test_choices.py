"""`n` above 1: independent chains of one request, in one answer."""

import asyncio
from collections.abc import Sequence
from typing import Any

import httpx2
import openai
import pytest

from slhf_server.errors import EngineFailed, RequestError
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Reply
from tests.conftest import Serve, until

ASK: list[Any] = [{"role": "user", "content": "what is it"}]


def numbered(fails: frozenset[int] = frozenset()) -> Reply:
    """The nth completion says so, or fails."""
    count = 0

    def reply(turns: Sequence[Turn]) -> str | RequestError:
        nonlocal count
        count += 1
        return EngineFailed("boom") if count in fails else f"text {count}"

    return reply


def test_each_choice_is_a_chain_of_its_own_and_tokens_add_up(serve: Serve) -> None:
    with openai.OpenAI(base_url=f"{serve(FakeEngine(numbered()))}/v1", api_key="none") as sdk:
        answer = sdk.chat.completions.create(
            model="fake", messages=ASK, n=3, seed=7, extra_body={"refine": {"rounds": 2, "return_rounds": True}}
        )
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert len({choice.message.content for choice in answer.choices}) == 3
    assert answer.usage is not None
    assert answer.model_extra is not None
    reports = [(choice.model_extra or {})["refinement"] for choice in answer.choices]
    assert [len(report["rounds"]) for report in reports] == [3, 3, 3]
    whole = answer.model_extra["refinement"]["usage"]
    assert answer.usage.total_tokens == whole["draft"]["total_tokens"] + sum(r["total_tokens"] for r in whole["rounds"])
    assert whole["draft"]["total_tokens"] == sum(report["usage"]["draft"]["total_tokens"] for report in reports)


def test_a_draft_is_refined_n_times(serve: Serve) -> None:
    body = {"messages": ASK, "n": 2, "refine": {"draft": "mine", "rounds": 1}}
    answer = httpx2.post(f"{serve(FakeEngine(numbered()))}/v1/chat/completions", json=body).json()
    assert sorted(choice["message"]["content"] for choice in answer["choices"]) == ["text 1", "text 2"]


def test_streamed_choices_are_told_apart_by_their_index(serve: Serve) -> None:
    with openai.OpenAI(base_url=f"{serve(FakeEngine(token_seconds=0.01))}/v1", api_key="none") as sdk:
        chunks = list(
            sdk.chat.completions.create(
                model="fake", messages=ASK, n=2, stream=True, stream_options={"include_usage": True}
            )
        )
    for index in (0, 1):
        mine = [c.choices[0] for c in chunks if c.choices and c.choices[0].index == index]
        assert mine[0].delta.role == "assistant"
        assert "".join(c.delta.content or "" for c in mine) == "better draft of: what is it"
        assert [c.finish_reason for c in mine if c.finish_reason] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None


@pytest.mark.parametrize("fails", [frozenset({1}), frozenset({2})])
def test_a_chain_that_fails_does_not_take_the_others_with_it(serve: Serve, fails: frozenset[int]) -> None:
    body = {"messages": ASK, "n": 2, "refine": {"rounds": 0}}
    answer = httpx2.post(f"{serve(FakeEngine(numbered(fails)))}/v1/chat/completions", json=body)
    assert answer.status_code == 200
    assert len(answer.json()["choices"]) == 1


def test_the_error_is_the_answer_where_every_chain_fails(serve: Serve) -> None:
    body = {"messages": ASK, "n": 2, "refine": {"rounds": 0}}
    answer = httpx2.post(f"{serve(FakeEngine(numbered(frozenset({1, 2}))))}/v1/chat/completions", json=body)
    assert answer.json()["error"]["code"] == "engine_error"


def test_a_stream_in_which_a_chain_fails_brings_the_others_whole_and_then_the_error(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: "ok ok ok", token_seconds=0.05)
    engine.leader._reply = numbered(frozenset({2}))
    body = {"messages": ASK, "n": 2, "stream": True, "refine": {"rounds": 0}}
    text = httpx2.post(f"{serve(engine)}/v1/chat/completions", json=body).text
    assert '"finish_reason": "stop"' in text
    assert '"engine_error"' in text
    assert "[DONE]" not in text


def test_a_client_that_goes_away_ends_every_chain(serve: Serve) -> None:
    engine = FakeEngine(token_seconds=5)
    url = serve(engine)

    async def leave() -> None:
        async with httpx2.AsyncClient() as client:
            body = {"messages": ASK, "n": 4}
            asking = asyncio.ensure_future(client.post(f"{url}/v1/chat/completions", json=body))
            await until(lambda: engine.leader.running == 4, 0.01)
            asking.cancel()
        async with asyncio.timeout(5):
            await until(lambda: not engine.leader.running, 0.01)

    asyncio.run(leave())


def test_logprobs_are_those_of_the_returned_round(serve: Serve) -> None:
    with openai.OpenAI(base_url=f"{serve()}/v1", api_key="none") as sdk:
        answer = sdk.chat.completions.create(model="fake", messages=ASK, logprobs=True, top_logprobs=2)
        chunks = list(
            sdk.chat.completions.create(model="fake", messages=ASK, logprobs=True, top_logprobs=2, stream=True)
        )
        plain = sdk.chat.completions.create(model="fake", messages=ASK)
    whole = answer.choices[0].logprobs
    assert whole is not None
    assert whole.content is not None
    assert "".join(one.token for one in whole.content) == answer.choices[0].message.content
    assert all(len(one.top_logprobs) == 2 for one in whole.content)
    streamed = [c.choices[0].logprobs for c in chunks if c.choices[0].logprobs is not None]
    assert [one for piece in streamed for one in piece.content or []] == whole.content
    assert plain.choices[0].logprobs is None
