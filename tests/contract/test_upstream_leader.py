"""A Leader on another server, through the whole application: what it is sent, and what comes of what it says."""

import json
from typing import Any

import httpx2
import openai
import pytest

from slhf_server.api.openai.parameters import CHAT
from slhf_server.models.fake import FakeEngine
from slhf_server.refinement.seeds import seed_of
from tests.conftest import Serve
from tests.server.models.upstream.faulty import (
    HELLO,
    USAGE,
    Faulty,
    Reply,
    breaks_off,
    error,
    hello,
    pieces,
    says,
    silent,
    streams,
    upstream,
)

ASK: list[Any] = [{"role": "user", "content": "what is it"}]
TOOLS: list[Any] = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
CALLS_A_TOOL = {
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": None, "tool_calls": [CALL]},
            "finish_reason": "tool_calls",
        }
    ],
    "usage": USAGE,
}
GOOD = says({**HELLO, "usage": USAGE})


def settings(server: Faulty, **model: Any) -> dict[str, Any]:
    return {
        "upstreams": {"cloud": {"base_url": server.url, "model": "big", "api_key": "sk-SECRET", "max_retries": 0}},
        "models": {"assistant": {"leader": "cloud", **model}},
    }


def asked(server: Faulty) -> list[Any]:
    """The chats it was asked; the probe asks for models."""
    return [one.body for one in server.asked if "chat/completions" in one.line]


def ask(url: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK, **body}, timeout=30)


def test_the_upstreams_draft_is_refined_and_its_tokens_count_as_it_reports_them(serve: Serve) -> None:
    with upstream(GOOD) as cloud:
        engine = FakeEngine()
        answer = ask(serve(engine, **settings(cloud)), refine={"return_rounds": True}).json()
    assert answer["choices"][0]["message"]["content"] == "better Hello you"
    report = answer["refinement"]
    assert (report["draft_source"], report["rounds"][0]["model"]) == ("upstream", "big")
    assert report["usage"]["draft"]["total_tokens"] == USAGE["total_tokens"]
    assert answer["usage"]["total_tokens"] == USAGE["total_tokens"] + report["usage"]["rounds"][0]["total_tokens"]
    assert engine.leader.calls == []


def test_a_turn_that_calls_tools_is_returned_as_it_is(serve: Serve) -> None:
    with upstream(says(CALLS_A_TOOL)) as cloud:
        engine = FakeEngine()
        url = serve(engine, **settings(cloud))
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            answer = sdk.chat.completions.create(model="assistant", messages=ASK, tools=TOOLS, tool_choice="auto")
            chunks = list(sdk.chat.completions.create(model="assistant", messages=ASK, tools=TOOLS, stream=True))
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.tool_calls is not None
    assert choice.message.tool_calls[0].model_dump(exclude_none=True) == CALL
    report = (answer.model_extra or {})["refinement"]
    assert (report["stop_reason"], report["applied"], report["rounds_run"]) == ("tool_calls", False, 0)
    assert asked(cloud)[0]["tools"] == TOOLS
    assert engine.follower.calls == []
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert [call.function.name for delta in deltas for call in delta.tool_calls or [] if call.function] == ["weather"]
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


def test_the_answer_after_a_tools_result_is_refined(serve: Serve) -> None:
    messages = [
        *ASK,
        {"role": "assistant", "tool_calls": [CALL]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]
    with upstream(GOOD) as cloud:
        engine = FakeEngine()
        answer = ask(serve(engine, **settings(cloud)), messages=messages, tools=TOOLS)
    assert answer.json()["choices"][0]["message"]["content"] == "better Hello you"
    assert asked(cloud)[0]["messages"] == messages
    assert [turn.role for turn in engine.follower.calls[0][0]] == ["user", "assistant", "user", "assistant", "user"]


@pytest.mark.parametrize(("images", "text"), [("text", "better Hello you"), ("pass_through", "Hello you")])
def test_images_go_to_the_upstream_and_the_model_says_whether_its_answer_is_refined(
    serve: Serve, images: str, text: str
) -> None:
    parts = [{"type": "text", "text": "what"}, {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}]
    with upstream(GOOD) as cloud:
        engine = FakeEngine()
        answer = ask(serve(engine, **settings(cloud, images=images)), messages=[{"role": "user", "content": parts}])
    assert answer.json()["choices"][0]["message"]["content"] == text
    assert asked(cloud)[0]["messages"][0]["content"] == parts
    assert all(turns[0].text == "what" for turns, _ in engine.follower.calls)


PASSED_ON: dict[str, Any] = {
    "tools": TOOLS,
    "tool_choice": "required",
    "parallel_tool_calls": False,
    "reasoning_effort": "high",
    "verbosity": "low",
    "temperature": 0.5,
    "top_p": 0.5,
    "stop": ["END"],
    "seed": 3,
    "frequency_penalty": 0.5,
    "presence_penalty": 0.5,
    "response_format": {"type": "json_object"},
    "top_k": 5,
    "min_p": 0.25,
    "min_tokens": 2,
    "repetition_penalty": 1.5,
    "ignore_eos": True,
    "bad_words": ["damn"],
    "include_stop_str_in_output": True,
    "skip_special_tokens": False,
    "chat_template_kwargs": {"enable_thinking": False, "reasoning": None},
    "documents": [{"title": "t", "text": "x"}],
    "mm_processor_kwargs": {"num_crops": 4},
    "media_io_kwargs": {"video": {"num_frames": 4}},
    "thinking_token_budget": 10,
    "reasoning": {"effort": "high", "exclude": None},
    "thinking": {"type": "disabled"},
    "enable_thinking": False,
    "thinking_budget": 10,
    "provider": {"order": ["x"]},
    "models": ["x"],
    "route": "fallback",
    "transforms": [],
    "plugins": [{"id": "web"}],
    "safe_prompt": True,
}


@pytest.mark.parametrize("name", PASSED_ON)
def test_a_parameter_reaches_the_upstream_as_the_client_sent_it(serve: Serve, name: str) -> None:
    with upstream(GOOD) as cloud:
        answer = ask(serve(FakeEngine(), **settings(cloud, rounds=0)), **{name: PASSED_ON[name]})
    assert answer.status_code == 200, answer.text
    assert asked(cloud)[0][name] == PASSED_ON[name]


def test_everything_for_an_upstream_is_tried_here() -> None:
    assert {name for name, parameter in CHAT.items() if parameter.support in ("leader", "upstream")} <= set(PASSED_ON)


def test_tools_that_may_not_be_called_are_the_upstreams_to_read(serve: Serve) -> None:
    unused = {"tools": TOOLS, "tool_choice": "none"}
    with upstream(GOOD) as cloud:
        answer = ask(serve(FakeEngine(), **settings(cloud)), **unused)
    assert answer.status_code == 200, answer.text
    assert {name: asked(cloud)[0][name] for name in unused} == unused


@pytest.mark.parametrize(("asked_for", "sent"), [(-1, [None, None]), (None, [None, None]), (5, [5, seed_of(5, 1, 0)])])
def test_a_seed_of_minus_one_is_none_for_an_upstream_too(serve: Serve, asked_for: int | None, sent: list[Any]) -> None:
    with upstream(GOOD, GOOD) as cloud:
        ask(serve(FakeEngine(), **settings(cloud, rounds=0)), seed=asked_for, n=2)
    assert {body.get("seed") for body in asked(cloud)} == {*sent}


def test_names_that_differ_are_translated(serve: Serve) -> None:
    with upstream(GOOD) as cloud:
        ask(serve(FakeEngine(), **settings(cloud, rounds=0)), max_tokens=7, logprobs=True, top_logprobs=2)
    sent = asked(cloud)[0]
    assert (sent["max_completion_tokens"], sent["logprobs"], sent["top_logprobs"]) == (7, True, 2)
    assert sent["model"] == "big"
    assert "max_tokens" not in sent


@pytest.mark.parametrize("name", ["logit_bias", "stop_token_ids", "allowed_token_ids"])
def test_token_ids_are_refused_where_the_roles_have_different_ones(serve: Serve, name: str) -> None:
    value: Any = {"5": 1.0} if name == "logit_bias" else [5]
    with upstream(GOOD) as cloud:
        answer = ask(serve(FakeEngine(), **settings(cloud)), **{name: value})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, name)


@pytest.mark.parametrize(
    ("reply", "status", "code"),
    [
        (error(500), 503, "upstream_unavailable"),
        (error(429), 503, "upstream_unavailable"),
        (error(401), 503, "upstream_unavailable"),
        (error(400), 400, None),
        (error(400, code="context_length_exceeded"), 400, "context_length_exceeded"),
        (says({"error": {"message": "SECRET-BODY"}}), 502, "upstream_error"),
    ],
)
def test_an_upstreams_failure_is_answered_without_its_words(
    serve: Serve, reply: Reply, status: int, code: str | None
) -> None:
    with upstream(GOOD, reply) as cloud:  # the first answers the probe
        answer = ask(serve(FakeEngine(), **settings(cloud)))
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "SECRET" not in answer.text
    assert ("retry-after" in answer.headers) == (status == 503)


def test_a_stream_of_the_upstream_that_breaks_off_ends_the_clients_stream_with_an_error(serve: Serve) -> None:
    with upstream(GOOD, breaks_off(*pieces("Hello", " you", finish_reason=None))) as cloud:
        url = serve(FakeEngine(), **settings(cloud, rounds=0))
        text = ask(url, stream=True).text
    assert '"upstream_error"' in text
    assert "[DONE]" not in text


def test_the_upstreams_own_stream_is_the_answer_where_nothing_is_refined(serve: Serve) -> None:
    with upstream(GOOD, hello()) as cloud:
        url = serve(FakeEngine(), **settings(cloud, rounds=0))
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            options: dict[str, Any] = {"stream_options": {"include_usage": True}}
            chunks = list(sdk.chat.completions.create(model="assistant", messages=ASK, stream=True, **options))
    assert [c.choices[0].delta.content for c in chunks if c.choices and c.choices[0].delta.content] == ["Hello", " you"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == USAGE["total_tokens"]


def test_a_deadline_while_the_upstream_is_silent_is_a_504(serve: Serve) -> None:
    with upstream(GOOD, silent()) as cloud:
        answer = ask(serve(FakeEngine(), **settings(cloud)), refine={"timeout_ms": 300})
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "deadline_exceeded")


def test_an_upstreams_thoughts_never_reach_the_follower_or_the_client(serve: Serve) -> None:
    message = {"role": "assistant", "content": "<think>SECRET</think>Hello", "reasoning_content": "SECRET too"}
    reply = says({"choices": [{"index": 0, "message": message, "finish_reason": "stop"}], "usage": USAGE})
    with upstream(reply) as cloud:
        engine = FakeEngine()
        answer = ask(serve(engine, **settings(cloud)), refine={"return_rounds": True, "show_rounds": True})
    assert "SECRET" not in answer.text
    assert "SECRET" not in str(engine.follower.calls)


@pytest.mark.parametrize("odd", [-5, 2**53, 2**64, "7", None, 1.5, True, {}])
def test_usage_that_cannot_be_is_never_the_clients_trouble(serve: Serve, odd: Any) -> None:
    with upstream(says({**HELLO, "usage": dict.fromkeys(USAGE, odd)})) as cloud:
        url = serve(FakeEngine(), **settings(cloud))
        answer = ask(url)
        assert answer.status_code == 200, answer.text
        metrics = httpx2.get(f"{url}/metrics").text
    assert answer.json()["choices"][0]["message"]["content"] == "better Hello you"
    assert all(0 <= count < 10**8 for count in answer.json()["usage"].values() if isinstance(count, int))
    assert "internal_error" not in metrics


@pytest.mark.parametrize("stream", [True, False])
def test_a_refused_parameter_of_the_client_is_named(serve: Serve, stream: bool) -> None:
    refusal = says({"detail": [{"loc": ["body", "seed"], "msg": "SECRET", "input": 5}]}, status=422)
    with upstream(GOOD, refusal) as cloud:
        answer = ask(serve(FakeEngine(), **settings(cloud)), seed=5, stream=stream, refine={"rounds": 0})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "seed")
    assert "SECRET" not in answer.text


def test_halves_of_a_character_are_no_internal_error(serve: Serve) -> None:
    halves = streams(*pieces("\ud83d", "\ude00 \ud83d"))
    with upstream(GOOD, halves) as cloud:
        answer = ask(serve(FakeEngine(), **settings(cloud, rounds=0)), stream=True)
    chunks = [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
    assert "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks) == "😀 \ufffd"
