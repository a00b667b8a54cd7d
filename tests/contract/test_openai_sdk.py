"""The official `openai` SDK, unchanged but for base_url, against the running server (fake engine, real sockets)."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest

from slhf_server.errors import EngineFailed, EngineUnavailable, RequestError
from slhf_server.models.fake import FakeEngine
from slhf_server.refinement.seeds import seed_of
from tests.conftest import Serve

ASK: list[Any] = [{"role": "user", "content": "what is it"}]


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(serve: Serve, engine: FakeEngine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serve(engine)}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_create_returns_the_refined_answer(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=ASK)
    assert answer.choices[0].message.content == "better draft of: what is it"
    assert answer.choices[0].message.role == "assistant"
    assert (answer.choices[0].finish_reason, answer.choices[0].index) == ("stop", 0)
    assert (answer.object, answer.model) == ("chat.completion", "fake")
    assert answer.id.startswith("chatcmpl-")


def test_extra_body_tunes_the_refinement_and_the_report_comes_back(client: openai.OpenAI) -> None:
    options = {"refine": {"rounds": 2, "draft": "mine", "return_rounds": True}}
    answer = client.chat.completions.create(model="fake", messages=ASK, extra_body=options)
    assert answer.choices[0].message.content == "better better mine"
    report = answer.model_extra["refinement"] if answer.model_extra else {}
    assert (report["rounds_run"], report["draft_source"], report["stop_reason"]) == (2, "client", "rounds_done")
    assert [r["text"] for r in report["rounds"]] == ["mine", "better mine", "better better mine"]


def test_usage_is_the_sum_over_all_rounds(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=ASK, extra_body={"refine": {"rounds": 3}})
    assert answer.usage is not None
    assert answer.model_extra is not None
    parts = answer.model_extra["refinement"]["usage"]
    for name in ("prompt_tokens", "completion_tokens", "total_tokens"):
        assert getattr(answer.usage, name) == parts["draft"][name] + sum(r[name] for r in parts["rounds"])
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_stream_brings_the_last_rounds_tokens_one_by_one(client: openai.OpenAI, engine: FakeEngine) -> None:
    chunks = list(client.chat.completions.create(model="fake", messages=ASK, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content]
    assert pieces == ["better", " draft", " of:", " what", " is", " it"]
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in chunks)
    assert {chunk.id for chunk in chunks} == {chunks[0].id}


def test_include_usage_adds_one_last_chunk_with_the_report(client: openai.OpenAI) -> None:
    chunks = list(
        client.chat.completions.create(
            model="fake", messages=ASK, stream=True, stream_options={"include_usage": True}, seed=1
        )
    )
    assert all(chunk.usage is None for chunk in chunks[:-1])
    last = chunks[-1]
    assert last.choices == []
    assert last.usage is not None
    assert last.model_extra is not None
    whole = client.chat.completions.create(model="fake", messages=ASK, seed=1)
    assert last.usage == whole.usage
    assert last.model_extra["refinement"]["rounds_run"] == 1


def test_show_rounds_streams_earlier_rounds_as_reasoning(client: openai.OpenAI) -> None:
    stream = client.chat.completions.create(
        model="fake", messages=ASK, stream=True, extra_body={"refine": {"show_rounds": True}}
    )
    deltas = [chunk.choices[0].delta for chunk in stream if chunk.choices]
    reasoning = "".join((delta.model_extra or {}).get("reasoning_content", "") for delta in deltas)
    assert reasoning == "draft of: what is it"
    assert "".join((delta.model_extra or {}).get("reasoning", "") for delta in deltas) == reasoning
    assert "".join(delta.content or "" for delta in deltas) == "better draft of: what is it"


def test_a_draft_that_is_not_refined_is_streamed_too(client: openai.OpenAI) -> None:
    options = {"refine": {"rounds": 0, "draft": " as it is\n"}}
    stream = client.chat.completions.create(model="fake", messages=ASK, stream=True, extra_body=options)
    assert "".join(c.choices[0].delta.content or "" for c in stream if c.choices) == " as it is\n"


def test_sampling_parameters_reach_both_roles_and_refine_overrides_the_followers(
    client: openai.OpenAI, engine: FakeEngine
) -> None:
    client.chat.completions.create(
        model="fake",
        messages=ASK,
        temperature=0.3,
        max_completion_tokens=50,
        stop=["END"],
        seed=7,
        extra_body={"min_p": 0.1, "refine": {"temperature": 0.9}},
    )
    leader, follower = engine.leader.calls[0][1], engine.follower.calls[0][1]
    assert (leader.temperature, leader.max_tokens, leader.stop) == (0.3, 50, ("END",))
    assert (leader.seed, follower.seed) == (seed_of(7, 0, 0), seed_of(7, 0, 1))
    assert (follower.temperature, follower.max_tokens, follower.stop, follower.min_p) == (0.9, 50, ("END",), 0.1)


def test_content_parts_and_developer_turns_are_understood(client: openai.OpenAI, engine: FakeEngine) -> None:
    parts: list[Any] = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]},
    ]
    client.chat.completions.create(model="fake", messages=parts)
    assert [(t.role, t.text) for t in engine.leader.calls[0][0]] == [("system", "Be brief."), ("user", "one\ntwo")]


@pytest.mark.parametrize(
    ("request_", "exception", "code"),
    [
        ({"model": "gpt-9"}, openai.NotFoundError, "model_not_found"),
        ({"temperature": 9}, openai.BadRequestError, None),
        ({"extra_body": {"refine": {"roundz": 1}}}, openai.BadRequestError, None),
        ({"messages": [*ASK, {"role": "assistant", "content": "x"}]}, openai.BadRequestError, None),
        ({"messages": [{"role": "user", "content": "x " * 5000}]}, openai.BadRequestError, "context_length_exceeded"),
        (
            {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "required"},
            openai.BadRequestError,
            None,
        ),
    ],
)
def test_errors_are_the_sdks_typed_exceptions(
    client: openai.OpenAI, request_: dict[str, Any], exception: type[openai.APIStatusError], code: str | None
) -> None:
    for stream in (False, True):
        with pytest.raises(exception) as caught:
            client.chat.completions.create(**({"model": "fake", "messages": ASK} | request_), stream=stream)
        assert caught.value.code == code
        assert caught.value.type == "invalid_request_error"
        assert caught.value.request_id


@pytest.mark.parametrize(
    ("error", "exception"),
    [(EngineFailed("boom"), openai.InternalServerError), (EngineUnavailable("gone"), openai.InternalServerError)],
)
def test_engine_errors_are_typed_exceptions_too(
    serve: Serve, error: RequestError, exception: type[openai.APIStatusError]
) -> None:
    with openai.OpenAI(base_url=f"{serve(FakeEngine(lambda t: error))}/v1", api_key="none", max_retries=0) as sdk:
        with pytest.raises(exception) as caught:
            sdk.chat.completions.create(model="fake", messages=ASK)
        assert caught.value.status_code == error.status


def test_a_full_queue_is_a_rate_limit_error(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=0.5), limits={"running": 1, "waiting": 0})
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as sdk:
        with sdk.chat.completions.create(model="fake", messages=ASK, stream=True) as running:
            next(iter(running))
            with pytest.raises(openai.RateLimitError) as caught:
                sdk.chat.completions.create(model="fake", messages=ASK)
    assert caught.value.response.headers["retry-after"] == "1"


def test_an_error_in_the_middle_of_a_stream_is_raised(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: ("half a text", EngineFailed("boom")), token_seconds=0.1)
    with openai.OpenAI(base_url=f"{serve(engine)}/v1", api_key="none", max_retries=0) as sdk:
        stream = sdk.chat.completions.create(
            model="fake", messages=ASK, stream=True, extra_body={"refine": {"draft": "d"}}
        )
        got: list[str] = []
        with pytest.raises(openai.APIError, match="boom"):
            got.extend(chunk.choices[0].delta.content or "" for chunk in stream)


def test_models_are_listed_and_retrieved(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").object == "model"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("other")


def test_the_async_client_runs_many_at_once(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=0.01))

    async def ask_all() -> list[str | None]:
        async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            questions: list[list[Any]] = [[{"role": "user", "content": f"question {i}"}] for i in range(20)]
            answers = [sdk.chat.completions.create(model="fake", messages=q) for q in questions]
            return [answer.choices[0].message.content for answer in await asyncio.gather(*answers)]

    assert asyncio.run(ask_all()) == [f"better draft of: question {i}" for i in range(20)]


def test_an_answer_can_be_appended_to_the_conversation_as_it_is(client: openai.OpenAI, engine: FakeEngine) -> None:
    first = client.chat.completions.create(model="fake", messages=ASK)
    messages: list[Any] = [*ASK, first.choices[0].message, {"role": "user", "content": "and now?"}]
    client.chat.completions.create(model="fake", messages=messages)
    assert [turn.role for turn in engine.leader.calls[-1][0]] == ["user", "assistant", "user"]


def test_show_rounds_without_stream_fills_reasoning_content(client: openai.OpenAI) -> None:
    answer = client.chat.completions.create(model="fake", messages=ASK, extra_body={"refine": {"show_rounds": True}})
    assert (answer.choices[0].message.model_extra or {})["reasoning_content"] == "draft of: what is it"


def test_a_shown_stream_cut_by_its_deadline_stands_as_it_is(serve: Serve) -> None:
    url = serve(FakeEngine(lambda turns: "w " * 99 + "w", token_seconds=0.02))
    options = {"refine": {"show_rounds": True, "draft": "d", "timeout_ms": 700}}
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        chunks = list(sdk.chat.completions.create(model="fake", messages=ASK, stream=True, extra_body=options))
    assert chunks[-1].choices[0].finish_reason == "length"
    assert "".join(c.choices[0].delta.content or "" for c in chunks).startswith("w w")


def test_pings_fill_the_silence_of_rounds_that_are_not_shown(serve: Serve) -> None:
    url = serve(FakeEngine(lambda turns: "one", token_seconds=0.3), ping_interval_s=0.4)
    body = {"messages": ASK, "stream": True, "refine": {"rounds": 4}}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body)
    assert answer.text.count(": ping") >= 2
