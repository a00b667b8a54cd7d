"""What is sent to an upstream, and what is read from its good answers."""

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from slhf_server.errors import UpstreamFailed
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.models.structured_output.workers import Workers
from tests.server.conftest import Play
from tests.server.models.upstream.faulty import HELLO, USAGE, hello, pieces, says, streams
from tests.server.models.upstream.stage import ASK, KEY, staged

DETAILED = USAGE | {
    "prompt_tokens_details": {"cached_tokens": 5, "audio_tokens": None},
    "completion_tokens_details": {"reasoning_tokens": 3},
}
CALL = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


def text_of(chunks: list[Chunk]) -> str:
    return "".join(chunk.text for chunk in chunks)


def sent(sampling: SamplingParams, **settings: Any) -> dict[str, Any]:
    """What `sampling` becomes in the request's body, without what every request has."""
    seen: dict[str, Any] = {}

    async def scenario() -> None:
        async with staged(hello(), **settings) as stage:
            await stage.ask(sampling=sampling)
            seen.update(stage.server.asked[0].body)

    asyncio.run(scenario())
    assert seen.pop("messages")
    assert seen.pop("model") == "big"
    assert seen.pop("stream") is True
    assert seen.pop("stream_options") == {"include_usage": True}
    return seen


def test_a_streamed_answer_comes_in_pieces_with_usage_at_the_end(play: Play) -> None:
    async def scenario() -> None:
        async with staged(hello()) as stage:
            *texts, last = await stage.ask()
            assert texts == [Chunk("Hello", 0), Chunk(" you", 0)]
            assert last == Chunk("", 7, prompt_tokens=11, finish_reason="stop")
            asked = stage.server.asked[0]
            assert asked.line == "POST /v1/chat/completions HTTP/1.1"
            assert asked.headers["authorization"] == f"Bearer {KEY}"
            assert stage.count("slhf_upstream_request_latency_seconds_count") == 1

    play(scenario())


def test_a_plain_answer_is_asked_for_where_nobody_reads_along(play: Play) -> None:
    async def scenario() -> None:
        async with staged(says(HELLO | {"usage": DETAILED})) as stage:
            chunks = await stage.ask(deltas=False)
            assert text_of(chunks) == "Hello you"
            last = chunks[-1]
            assert (last.prompt_tokens, last.cached_tokens, last.completion_tokens) == (11, 5, 7)
            assert (last.reasoning_tokens, last.finish_reason) == (3, "stop")
            body = stage.server.asked[0].body
            assert body["stream"] is False
            assert "stream_options" not in body

    play(scenario())


def test_an_upstream_that_reports_no_usage_counts_nothing(play: Play) -> None:
    async def scenario() -> None:
        async with staged(streams(*pieces("Hello", finish_reason="length"), done=False)) as stage:
            assert (await stage.ask())[-1] == Chunk("", 0, finish_reason="length")

    play(scenario())


def test_messages_travel_as_the_client_sent_them(play: Play) -> None:
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    raw = {"role": "user", "content": [{"type": "text", "text": "what is this"}, image], "name": "ada"}

    async def scenario() -> None:
        async with staged(hello()) as stage:
            await stage.ask((*ASK, Turn("user", "what is this", message=raw)))
            system = {"role": "system", "content": "Be brief."}
            assert stage.server.asked[0].body["messages"] == [system, {"role": "user", "content": "Hi"}, raw]

    play(scenario())


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
def test_thoughts_reach_nobody(play: Play, field: str) -> None:
    thought = {"choices": [{"index": 0, "delta": {field: "SECRET-THOUGHT"}}]}
    message = {"role": "assistant", "content": "Hello", field: "SECRET-THOUGHT"}
    whole = {"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": DETAILED}

    async def scenario() -> None:
        async with staged(streams(thought, *pieces("Hello"), {"choices": [], "usage": DETAILED}), says(whole)) as stage:
            for deltas in (True, False):
                chunks = await stage.ask(deltas=deltas)
                assert text_of(chunks) == "Hello"
                assert chunks[-1].reasoning_tokens == 3

    play(scenario())


def called(*calls: dict[str, Any]) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"tool_calls": list(calls)}}]}


@pytest.mark.parametrize("reason", ["tool_calls", "stop"])
def test_tool_calls_are_put_together_from_their_pieces(play: Play, reason: str) -> None:
    """Interleaved, with the name said again and an id repeated as null, as servers do."""
    second = {"index": 1, "id": "call_2", "type": "function", "function": {"name": "time", "arguments": ""}}
    events = (
        called({"index": 0, "id": "call_1", "type": "function", "function": {"name": "weather", "arguments": ""}}),
        called({"index": 0, "id": None, "function": {"name": "weather", "arguments": '{"city": '}}, second),
        called({"index": 1, "function": {"arguments": "{}"}}, {"index": 0, "function": {"arguments": '"Bern"}'}}),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
    )

    async def scenario() -> None:
        async with staged(streams(*events)) as stage:
            last = (await stage.ask())[-1]
            time = {"id": "call_2", "type": "function", "function": {"name": "time", "arguments": "{}"}}
            assert last.tool_calls == (CALL, time)
            assert last.finish_reason == "tool_calls"

    play(scenario())


def test_tool_calls_of_a_plain_answer_are_whole(play: Play) -> None:
    message = {"role": "assistant", "content": None, "tool_calls": [CALL]}
    answer = {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    async def scenario() -> None:
        async with staged(says(answer)) as stage:
            chunks = await stage.ask(deltas=False)
            assert text_of(chunks) == ""
            assert chunks[-1].tool_calls == (CALL,)

    play(scenario())


def test_log_probabilities_come_with_their_piece(play: Play) -> None:
    top = [{"token": "Hello", "logprob": -0.5, "bytes": [72]}, {"token": "Hi", "logprob": -1.5, "bytes": None}]
    token = {"token": "Hello", "logprob": -0.5, "bytes": [72], "top_logprobs": top}
    event = {"choices": [{"index": 0, "delta": {"content": "Hello"}, "logprobs": {"content": [token]}}]}

    async def scenario() -> None:
        async with staged(streams(event, *pieces())) as stage:
            first = (await stage.ask(sampling=SamplingParams(logprobs=2)))[0]
            assert [one.model_dump() for one in first.logprobs] == [token]
            body = stage.server.asked[0].body
            assert (body["logprobs"], body["top_logprobs"]) == (True, 2)

    play(scenario())


@pytest.mark.parametrize(
    ("said", "meant"), [("content_filter", "content_filter"), ("eos", "stop"), ("length", "length")]
)
def test_finish_reasons_are_openais(play: Play, said: str, meant: str) -> None:
    async def scenario() -> None:
        async with staged(streams(*pieces("x", finish_reason=said))) as stage:
            assert (await stage.ask())[-1].finish_reason == meant

    play(scenario())


@pytest.mark.parametrize("said", ["error", "abort"])
def test_a_completion_that_failed_over_there_is_no_answer(play: Play, said: str) -> None:
    async def scenario() -> None:
        async with staged(streams(*pieces("x", finish_reason=said))) as stage:
            with pytest.raises(UpstreamFailed):
                await stage.ask()

    play(scenario())


def test_only_what_is_set_is_sent() -> None:
    assert sent(SamplingParams()) == {}


def test_sampling_keeps_openais_and_vllms_names() -> None:
    structure = structured_output_of({"type": "json_object"}, Workers())
    sampling = SamplingParams(
        temperature=0.0,
        top_p=0.5,
        stop=("a", "b"),
        seed=0,
        frequency_penalty=0.1,
        presence_penalty=0.2,
        top_k=3,
        min_p=0.1,
        min_tokens=2,
        repetition_penalty=1.1,
        ignore_eos=False,
        logit_bias={"5": 1.0},
        bad_words=("c",),
        structure=structure,
    )
    assert sent(sampling) == {
        "temperature": 0.0,
        "top_p": 0.5,
        "stop": ["a", "b"],
        "seed": 0,
        "frequency_penalty": 0.1,
        "presence_penalty": 0.2,
        "top_k": 3,
        "min_p": 0.1,
        "min_tokens": 2,
        "repetition_penalty": 1.1,
        "ignore_eos": False,
        "logit_bias": {"5": 1.0},
        "bad_words": ["c"],
        "response_format": {"type": "json_object"},
    }


def test_what_the_client_passes_on_replaces_nothing_of_ours() -> None:
    tools = [{"type": "function", "function": {"name": "weather"}}]
    upstream_params = {"tools": tools, "model": "dear", "messages": [], "stream": False, "temperature": 2.0}
    assert sent(SamplingParams(temperature=0.5, upstream_params=upstream_params)) == {
        "tools": tools,
        "temperature": 0.5,
    }


@pytest.mark.parametrize(
    ("max_tokens", "budget", "expected"),
    [
        (None, None, None),
        (50, None, 50),
        (50, 40, 40),
        (50, 131_072, 50),
        (9000, 131_072, 9000),
        (None, 40, 40),
        (None, 4096, None),
        (None, 131_072, None),
    ],
)
def test_the_limit_of_tokens_is_the_lower_one_and_no_budget_that_upstreams_refuse(
    max_tokens: int | None, budget: int | None, expected: int | None
) -> None:
    sampling = SamplingParams(max_tokens=max_tokens, max_total_tokens=budget)
    for name in ("max_completion_tokens", "max_tokens"):
        assert sent(sampling, max_tokens_parameter=name) == ({} if expected is None else {name: expected})


def test_a_model_that_writes_more_is_told_of_higher_budgets() -> None:
    sampling = SamplingParams(max_total_tokens=9000)
    assert sent(sampling, max_output_tokens=16_384) == {"max_completion_tokens": 9000}


def test_text_is_sent_as_utf8(play: Play) -> None:
    async def scenario() -> None:
        async with staged(streams(*pieces("né"))) as stage:
            chunks = await stage.ask((replace(ASK[1], text="Grüße 👋"),))
            assert text_of(chunks) == "né"
            assert "👋" in json.dumps(stage.server.asked[0].body, ensure_ascii=False)

    play(scenario())
