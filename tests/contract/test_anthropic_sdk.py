"""The official `anthropic` SDK, unchanged but for base_url, against the running server (fake engine, real sockets)."""

import asyncio
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import Message, MessageParam, TextBlock, ThinkingBlock

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve

ASK: list[MessageParam] = [{"role": "user", "content": "what is it"}]
SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
OUTPUT: Any = {"format": {"type": "json_schema", "schema": SCHEMA}}
SMALL: dict[str, Any] = {"model": "fake", "max_tokens": 100, "messages": ASK}


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


def connect(url: str, **more: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=url, **{"api_key": "none", "max_retries": 0, **more})


@pytest.fixture
def client(serve: Serve, engine: FakeEngine) -> Iterator[anthropic.Anthropic]:
    with connect(serve(engine)) as sdk:
        yield sdk


def text_of(message: Message) -> str:
    (block,) = message.content
    assert isinstance(block, TextBlock)
    return block.text


def extra(message: Message, key: str) -> Any:
    assert message.model_extra is not None
    return message.model_extra[key]


def test_create_returns_the_refined_answer(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**SMALL)
    assert text_of(answer) == "better draft of: what is it"
    assert (answer.type, answer.role, answer.model) == ("message", "assistant", "fake")
    assert (answer.stop_reason, answer.stop_sequence) == ("end_turn", None)
    assert answer.id.startswith("msg")


def test_extra_body_tunes_the_refinement_and_the_report_comes_back(client: anthropic.Anthropic) -> None:
    options = {"refine": {"rounds": 2, "draft": "mine", "return_rounds": True}}
    answer = client.messages.create(**SMALL, extra_body=options)
    assert text_of(answer) == "better better mine"
    report = extra(answer, "refinement")
    assert (report["rounds_run"], report["draft_source"], report["stop_reason"]) == (2, "client", "rounds_done")
    assert [r["text"] for r in report["rounds"]] == ["mine", "better mine", "better better mine"]


def test_usage_is_the_sum_over_all_rounds_with_cached_tokens_told_apart(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**SMALL, extra_body={"refine": {"rounds": 3}})
    parts = extra(answer, "refinement")["usage"]
    each = [parts["draft"], *parts["rounds"]]
    cached = sum(part["prompt_tokens_details"]["cached_tokens"] for part in each)
    assert answer.usage.output_tokens == sum(part["completion_tokens"] for part in each)
    assert answer.usage.cache_read_input_tokens == cached
    assert answer.usage.input_tokens == sum(part["prompt_tokens"] for part in each) - cached
    assert answer.usage.output_tokens_details is not None
    assert answer.usage.output_tokens_details.thinking_tokens == 0


def test_max_tokens_ends_an_answer(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**SMALL | {"max_tokens": 2})
    assert (text_of(answer), answer.stop_reason) == ("better draft", "max_tokens")


@pytest.mark.parametrize("rounds", [0, 1])
def test_a_stop_sequence_that_ended_the_answer_is_named(serve: Serve, rounds: int) -> None:
    options: dict[str, Any] = {"extra_body": {"refine": {"rounds": rounds}}, "stop_sequences": ["END", " three"]}
    with connect(serve(FakeEngine(lambda turns: "one two three four"))) as sdk:
        answer = sdk.messages.create(**SMALL, **options)
        with sdk.messages.stream(**SMALL, **options) as stream:
            streamed = stream.get_final_message()
    assert text_of(answer) == "one two"
    for message in (answer, streamed):
        assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", " three")


def test_a_system_prompt_is_the_first_turn_as_text_or_in_blocks(
    client: anthropic.Anthropic, engine: FakeEngine
) -> None:
    client.messages.create(**SMALL, system="Be brief.")
    blocks: list[Any] = [
        {"type": "text", "text": "Be", "cache_control": {"type": "ephemeral"}},
        {"type": "text", "text": "brief."},
    ]
    client.messages.create(**SMALL, system=blocks)
    seen = [[(turn.role, turn.text) for turn in turns] for turns, _ in engine.leader.calls]
    assert seen == [
        [("system", "Be brief."), ("user", "what is it")],
        [("system", "Be\nbrief."), ("user", "what is it")],
    ]


def test_sampling_parameters_reach_both_roles_and_refine_overrides_the_followers(
    client: anthropic.Anthropic, engine: FakeEngine
) -> None:
    sampling = {"temperature": 0.3, "top_p": 0.9, "top_k": 40}  # which newer SDKs do not name any more
    options: dict[str, Any] = sampling | {"refine": {"temperature": 0.7, "instruction": "Rhyme."}}
    ended: dict[str, Any] = {"stop_sequences": ["END", "STOP"], "metadata": {"user_id": "u"}}
    client.messages.create(**SMALL, **ended, extra_body=options)
    leader, follower = engine.leader.calls[0][1], engine.follower.calls[0][1]
    for role in (leader, follower):
        assert (role.top_p, role.top_k, role.max_tokens, role.stop) == (0.9, 40, 100, ("END", "STOP"))
    assert (leader.temperature, follower.temperature) == (0.3, 0.7)
    assert engine.follower.calls[0][0][-1].text.endswith("Rhyme.")


def test_an_answer_can_be_appended_to_the_conversation_as_it_is(
    client: anthropic.Anthropic, engine: FakeEngine
) -> None:
    first = client.messages.create(**SMALL, extra_body={"refine": {"show_rounds": True}})
    again: list[MessageParam] = [*ASK, first.to_param(), {"role": "user", "content": "and now?"}]
    client.messages.create(**SMALL | {"messages": again})
    assert [(turn.role, turn.text) for turn in engine.leader.calls[-1][0]] == [
        ("user", "what is it"),
        ("assistant", "better draft of: what is it"),
        ("user", "and now?"),
    ]


def test_shown_rounds_are_thinking_blocks_before_the_answer(client: anthropic.Anthropic) -> None:
    answer = client.messages.create(**SMALL, extra_body={"refine": {"rounds": 2, "show_rounds": True}})
    *earlier, last = answer.content
    assert isinstance(last, TextBlock)
    assert last.text == "better better draft of: what is it"
    assert all(isinstance(block, ThinkingBlock) and block.signature for block in earlier)
    assert [block.thinking for block in earlier if isinstance(block, ThinkingBlock)] == [
        "draft of: what is it",
        "better draft of: what is it",
    ]


def test_structured_output_binds_the_answer(serve: Serve) -> None:
    with connect(serve(FakeEngine(lambda turns: '{"a": 1}'))) as sdk:
        answer = sdk.messages.create(**SMALL, output_config=OUTPUT)
    assert text_of(answer) == '{"a": 1}'


def test_the_async_client_runs_many_at_once(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=0.01))

    async def ask_all() -> list[str]:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none") as sdk:
            asks = [
                sdk.messages.create(
                    model="fake", max_tokens=100, messages=[{"role": "user", "content": f"question {i}"}]
                )
                for i in range(20)
            ]
            return [text_of(answer) for answer in await asyncio.gather(*asks)]

    assert asyncio.run(ask_all()) == [f"better draft of: question {i}" for i in range(20)]


def test_a_stream_brings_the_answers_tokens_one_by_one(client: anthropic.Anthropic) -> None:
    events = list(client.messages.create(**SMALL, stream=True))
    assert [event.type for event in events[:2]] == ["message_start", "content_block_start"]
    assert [event.type for event in events[-3:]] == ["content_block_stop", "message_delta", "message_stop"]
    pieces = [event.delta for event in events if event.type == "content_block_delta"]
    assert [piece.text for piece in pieces if piece.type == "text_delta"] == ["better", " draft", " of:"] + [
        f" {word}" for word in "what is it".split()
    ]
    assert {event.index for event in events if "content_block" in event.type and hasattr(event, "index")} == {0}


def test_the_sdks_stream_helper_builds_the_message_that_comes_without_stream(client: anthropic.Anthropic) -> None:
    for options in ({}, {"rounds": 2}, {"rounds": 2, "show_rounds": True}, {"rounds": 0, "draft": " as it is\n"}):
        extra_body: dict[str, Any] = {"refine": options}
        whole = client.messages.create(**SMALL, extra_body=extra_body)
        with client.messages.stream(**SMALL, extra_body=extra_body) as stream:
            built = stream.get_final_message()
        plain = {"id", "model_extra", "refinement"}
        streamed = built.model_dump(exclude=plain, exclude_none=True)
        for block in streamed["content"]:
            block.pop("parsed_output", None)
        assert streamed == whole.model_dump(exclude=plain, exclude_none=True)


def test_a_streams_last_delta_has_the_usage_and_the_report(client: anthropic.Anthropic) -> None:
    whole = client.messages.create(**SMALL)
    (last,) = [event for event in client.messages.create(**SMALL, stream=True) if event.type == "message_delta"]
    assert last.usage.model_dump(exclude_none=True) == whole.usage.model_dump(exclude_none=True)
    assert last.model_extra is not None
    assert last.model_extra["refinement"]["rounds_run"] == 1


def test_a_stream_begins_with_an_empty_message_and_no_tokens(client: anthropic.Anthropic) -> None:
    first = next(iter(client.messages.create(**SMALL, stream=True)))
    assert first.type == "message_start"
    message = first.message
    assert (message.content, message.stop_reason, message.role) == ([], None, "assistant")
    assert (message.usage.input_tokens, message.usage.output_tokens) == (0, 0)


def test_the_reports_main_facts_are_headers(client: anthropic.Anthropic) -> None:
    raw = client.messages.with_raw_response.create(**SMALL)
    assert (raw.headers["x-slhf-rounds"], raw.headers["x-slhf-stop-reason"]) == ("1", "rounds_done")
    assert raw.parse().id == f"msg-{raw.headers['request-id']}"


def test_a_clients_own_draft_is_no_shown_round(client: anthropic.Anthropic) -> None:
    options: dict[str, Any] = {"refine": {"draft": "mine", "show_rounds": True}}
    assert text_of(client.messages.create(**SMALL, extra_body=options)) == "better mine"
    with client.messages.stream(**SMALL, extra_body=options) as stream:
        assert [block.type for block in stream.get_final_message().content] == ["text"]


def test_shown_rounds_stream_as_one_thinking_block_each_with_its_signature(client: anthropic.Anthropic) -> None:
    extra_body = {"refine": {"rounds": 2, "show_rounds": True}}
    events = list(client.messages.create(**SMALL, stream=True, extra_body=extra_body))
    opened = [event.content_block.type for event in events if event.type == "content_block_start"]
    assert opened == ["thinking", "thinking", "text"]
    assert [event.index for event in events if event.type == "content_block_stop"] == [0, 1, 2]
    deltas = [(event.index, event.delta.type) for event in events if event.type == "content_block_delta"]
    assert {kind for index, kind in deltas if index < 2} == {"thinking_delta", "signature_delta"}
    assert [index for index, kind in deltas if kind == "signature_delta"] == [0, 1]


def test_the_async_client_streams(serve: Serve) -> None:
    url = serve()

    async def ask() -> str:
        async with anthropic.AsyncAnthropic(base_url=url, api_key="none") as sdk:
            async with sdk.messages.stream(**SMALL) as stream:
                return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask()) == "better draft of: what is it"


def test_structured_output_is_streamed_once_it_is_valid(serve: Serve) -> None:
    with connect(serve(FakeEngine(lambda turns: '{"a": 1}'))) as sdk:
        with sdk.messages.stream(**SMALL, output_config=OUTPUT) as stream:
            assert list(stream.text_stream) == ['{"a": 1}']


def test_pings_fill_silence_as_events_of_their_own(serve: Serve) -> None:
    url = serve(FakeEngine(lambda turns: "one", token_seconds=0.3), ping_interval_s=0.4)
    body = {"max_tokens": 9, "messages": ASK, "stream": True, "refine": {"rounds": 4}}
    answer = httpx2.post(f"{url}/v1/messages", json=body)
    assert answer.text.count('event: ping\ndata: {"type": "ping"}\n\n') >= 2
    assert ": ping\n\n" not in answer.text.replace("event: ping", "")
