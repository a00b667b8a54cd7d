"""`/v1/completions` and `/v1/responses` through the official SDK."""

import asyncio
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from pydantic import BaseModel

from slhf_server.errors import EngineFailed
from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve

REFINED = "better draft of: what is it"


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(serve: Serve, engine: FakeEngine) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{serve(engine)}/v1", api_key="none", max_retries=0) as sdk:
        yield sdk


def test_a_completion_is_refined(client: openai.OpenAI) -> None:
    answer = client.completions.create(model="fake", prompt="what is it")
    assert (answer.object, answer.choices[0].text, answer.choices[0].finish_reason) == (
        "text_completion",
        REFINED,
        "stop",
    )
    assert answer.id.startswith("cmpl-")
    report = (answer.model_extra or {})["refinement"]
    assert answer.usage is not None
    assert answer.usage.total_tokens == report["usage"]["draft"]["total_tokens"] + sum(
        one["total_tokens"] for one in report["usage"]["rounds"]
    )


def test_a_completion_has_sixteen_tokens_unless_it_asks_for_more(client: openai.OpenAI, engine: FakeEngine) -> None:
    client.completions.create(model="fake", prompt=["what is it"])
    client.completions.create(model="fake", prompt="what is it", max_tokens=99)
    assert [sampling.max_tokens for _, sampling in engine.leader.calls] == [16, 99]


def test_a_completion_streams_and_counts_where_its_logprobs_stand(client: openai.OpenAI) -> None:
    whole = client.completions.create(model="fake", prompt="what is it", logprobs=1)
    chunks = list(
        client.completions.create(
            model="fake", prompt="what is it", logprobs=1, stream=True, stream_options={"include_usage": True}
        )
    )
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == REFINED
    assert chunks[-1].usage == whole.usage
    logprobs = whole.choices[0].logprobs
    assert logprobs is not None
    assert logprobs.tokens is not None
    assert logprobs.text_offset is not None
    assert all(REFINED[at:].startswith(token) for at, token in zip(logprobs.text_offset, logprobs.tokens, strict=True))
    streamed = [c.choices[0].logprobs.text_offset for c in chunks if c.choices and c.choices[0].logprobs]
    assert [at for one in streamed for at in one or []] == logprobs.text_offset


@pytest.mark.parametrize(
    "body", [{"prompt": ["a", "b"]}, {"prompt": [1, 2]}, {"echo": True}, {"suffix": "x"}, {"best_of": 2}]
)
def test_what_a_completion_cannot_be_is_a_400(client: openai.OpenAI, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        client.completions.create(**({"model": "fake", "prompt": "x"} | body))


def test_a_response_is_refined(client: openai.OpenAI, engine: FakeEngine) -> None:
    answer = client.responses.create(model="fake", input="what is it", instructions="Be brief.")
    assert (answer.output_text, answer.status, answer.object) == (REFINED, "completed", "response")
    assert [(turn.role, turn.text) for turn in engine.leader.calls[0][0]] == [
        ("system", "Be brief."),
        ("user", "what is it"),
    ]
    assert answer.usage is not None
    report = (answer.model_extra or {})["refinement"]
    assert answer.usage.total_tokens == report["usage"]["draft"]["total_tokens"] + sum(
        one["total_tokens"] for one in report["usage"]["rounds"]
    )


def test_a_response_can_be_appended_to_the_input_as_it_is(client: openai.OpenAI, engine: FakeEngine) -> None:
    first = client.responses.create(model="fake", input="what is it")
    conversation: list[Any] = [{"role": "user", "content": "what is it"}, *first.output]
    conversation.append({"role": "user", "content": [{"type": "input_text", "text": "and now?"}]})
    client.responses.create(model="fake", input=conversation)
    assert [turn.role for turn in engine.leader.calls[-1][0]] == ["user", "assistant", "user"]


def test_a_response_streams_numbered_events(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="fake", input="what is it", stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-1] == "response.completed"
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert len(deltas) > 1
    assert "".join(deltas) == REFINED


def test_the_sdks_stream_helper_builds_the_same_response(client: openai.OpenAI) -> None:
    with client.responses.stream(model="fake", input="what is it") as stream:
        final = stream.get_final_response()
    assert final.output_text == REFINED


def test_a_response_that_runs_out_of_tokens_is_incomplete(client: openai.OpenAI) -> None:
    answer = client.responses.create(model="fake", input="what is it", max_output_tokens=2)
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "max_output_tokens"


class Age(BaseModel):
    age: int


def test_a_response_can_be_structured(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: '{"age": 3}')
    with openai.OpenAI(base_url=f"{serve(engine)}/v1", api_key="none") as sdk:
        assert sdk.responses.parse(model="fake", input="how old", text_format=Age).output_parsed == Age(age=3)
    structure = engine.follower.calls[0][1].structure
    assert structure is not None
    assert structure.schema is not None
    assert structure.schema["required"] == ["age"]


def test_a_draft_is_streamed_in_one_piece_where_nothing_is_refined(client: openai.OpenAI) -> None:
    body = {"refine": {"draft": "mine", "rounds": 0}}
    events = list(client.responses.create(model="fake", input="what is it", stream=True, extra_body=body))
    assert [event.delta for event in events if event.type == "response.output_text.delta"] == ["mine"]


def test_an_error_in_a_streamed_response_is_its_last_event(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: ("half a text", EngineFailed("boom")), token_seconds=0.1)
    body = {"input": "x", "stream": True, "refine": {"draft": "d"}}
    text = httpx2.post(f"{serve(engine)}/v1/responses", json=body).text
    assert text.split("\n\n")[-2].startswith("event: error\ndata: ")


@pytest.mark.parametrize(
    "body",
    [
        {"tools": [{"type": "web_search"}]},
        {"previous_response_id": "resp_1"},
        {"background": True},
        {"input": [{"type": "message", "role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
        {"input": [{"type": "item_reference", "id": "x"}]},
        {"input": []},
        {"nonsense": 1},
        {"extra_body": {"refine": {"show_rounds": True}}},
    ],
)
def test_what_is_beyond_text_is_a_400(client: openai.OpenAI, body: dict[str, Any]) -> None:
    arguments: dict[str, Any] = {"model": "fake", "input": "x"} | body
    if "nonsense" in arguments:
        arguments["extra_body"] = {"nonsense": arguments.pop("nonsense")}
    with pytest.raises(openai.BadRequestError):
        client.responses.create(**arguments)


def test_the_async_client_streams_responses_too(serve: Serve, engine: FakeEngine) -> None:
    async def ask() -> str:
        async with openai.AsyncOpenAI(base_url=f"{serve(engine)}/v1", api_key="none") as sdk:
            stream = await sdk.responses.create(model="fake", input="what is it", stream=True)
            return "".join([event.delta async for event in stream if event.type == "response.output_text.delta"])

    assert asyncio.run(ask()) == REFINED


def test_the_chat_stream_helper_and_parse_work(serve: Serve, client: openai.OpenAI) -> None:
    ask: list[Any] = [{"role": "user", "content": "what is it"}]
    with client.chat.completions.stream(model="fake", messages=ask) as stream:
        assert stream.get_final_completion().choices[0].message.content == REFINED
    url = serve(FakeEngine(lambda turns: '{"age": 3}'))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        parsed = sdk.chat.completions.parse(model="fake", messages=ask, response_format=Age)
    assert parsed.choices[0].message.parsed == Age(age=3)
