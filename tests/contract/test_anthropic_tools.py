"""Tools as Anthropic's clients have them, with a Leader on an OpenAI-compatible server: there and back."""

import json
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import beta_tool
from anthropic.types import ToolUseBlock

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.contract.test_anthropic_sdk import ASK, connect, text_of
from tests.contract.test_upstream_leader import CALLS_A_TOOL, GOOD, asked, settings
from tests.server.models.upstream.faulty import HELLO, USAGE, Faulty, says, upstream

WEATHER: Any = {
    "name": "weather",
    "description": "Tells the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
QUESTION: Any = ASK
DOCUMENT = {"type": "text", "media_type": "text/plain", "data": "a text"}
AS_CHAT = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
ARGUMENTS = '{"city": "Röm"}'


def calls(*arguments: str, text: str | None = None) -> dict[str, Any]:
    made = [
        {"id": f"c{n}", "type": "function", "function": {"name": "weather", "arguments": one}}
        for n, one in enumerate(arguments)
    ]
    message = {"role": "assistant", "content": text, "tool_calls": made}
    return {"choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}


def ask(sdk: anthropic.Anthropic, **more: Any) -> Any:
    return sdk.messages.create(**{"model": "assistant", "max_tokens": 99, "messages": ASK, "tools": [WEATHER], **more})


def test_a_turn_that_calls_tools_comes_back_as_tool_use_blocks(serve: Serve) -> None:
    with upstream(says(calls(ARGUMENTS, "{}", text="Let me see."))) as cloud:
        engine = FakeEngine()
        with connect(serve(engine, **settings(cloud))) as sdk:
            answer = ask(sdk)
            with sdk.messages.stream(model="assistant", max_tokens=99, messages=ASK, tools=[WEATHER]) as stream:
                built = stream.get_final_message()
        sent = asked(cloud)
    for message in (answer, built):
        content: Any = message.content
        text, first, second = content
        assert text.text == "Let me see."
        assert (first.type, first.id, first.name, first.input) == ("tool_use", "c0", "weather", {"city": "Röm"})
        assert (second.id, second.input) == ("c1", {})
        assert message.stop_reason == "tool_use"
        assert message.usage.output_tokens == USAGE["completion_tokens"]
    assert [body["tools"] for body in sent] == [[AS_CHAT], [AS_CHAT]]
    assert engine.follower.calls == []


def test_a_turn_without_words_has_no_text_block(serve: Serve) -> None:
    with upstream(says(CALLS_A_TOOL)) as cloud, connect(serve(FakeEngine(), **settings(cloud))) as sdk:
        (block,) = ask(sdk).content
    assert isinstance(block, ToolUseBlock)


def test_arguments_that_are_no_object_are_kept_under_a_key(serve: Serve) -> None:
    for said, read in (('{"a"', {"arguments": '{"a"'}), ("[1]", {"arguments": [1]})):
        with upstream(says(calls(said))) as cloud, connect(serve(FakeEngine(), **settings(cloud))) as sdk:
            (block,) = ask(sdk).content
        assert block.input == read


@pytest.mark.parametrize(
    ("choice", "sent"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "weather"},
            {"tool_choice": {"type": "function", "function": {"name": "weather"}}},
        ),
        (
            {"type": "auto", "disable_parallel_tool_use": True},
            {"tool_choice": "auto", "parallel_tool_calls": False},
        ),
    ],
)
def test_a_choice_of_tools_is_said_in_the_upstreams_words(
    serve: Serve, choice: dict[str, Any], sent: dict[str, Any]
) -> None:
    with upstream(GOOD) as cloud, connect(serve(FakeEngine(), **settings(cloud))) as sdk:
        ask(sdk, tool_choice=choice)
        (body,) = asked(cloud)
    assert {name: body[name] for name in ("tool_choice", "parallel_tool_calls") if name in body} == sent


def test_calls_and_results_reach_an_upstream_as_chats_messages(serve: Serve) -> None:
    with upstream(GOOD) as cloud:
        engine = FakeEngine()
        with connect(serve(engine, **settings(cloud))) as sdk:
            answer = ask(sdk, messages=conversation(), system=[{"type": "text", "text": "Be brief."}])
        (body,) = asked(cloud)
    assert text_of(answer) == "better Hello you"
    assert body["messages"] == [
        {"role": "system", "content": [{"type": "text", "text": "Be brief."}]},
        {"role": "user", "content": "what is it"},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Let me see."}],
            "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}},
                {"id": "t2", "type": "function", "function": {"name": "weather", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "t1", "content": [{"type": "text", "text": "sunny"}]},
        {"role": "tool", "tool_call_id": "t2", "content": "Error: no such city"},
        {"role": "user", "content": [{"type": "text", "text": "And now?"}]},
    ]


def test_to_the_engine_calls_and_results_are_told_in_words(serve: Serve) -> None:
    engine = FakeEngine()
    with connect(serve(engine)) as sdk:
        sdk.messages.create(model="fake", max_tokens=99, messages=conversation())
    assert [turn.text for turn in engine.leader.calls[0][0]] == [
        "what is it",
        'Let me see.\nCalled weather with {"city": "Rome"}\nCalled weather with {}',
        "Result of weather:\nsunny\n\nResult of weather:\nError: no such city\n\nAnd now?",
    ]


def conversation() -> list[Any]:
    return [
        *ASK,
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {"type": "redacted_thinking", "data": "d"},
                {"type": "text", "text": "Let me see.", "citations": None},
                {"type": "tool_use", "id": "t1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "server_tool_use", "id": "s1", "name": "web_search", "input": {}},
                {"type": "web_search_tool_result", "tool_use_id": "s1", "content": []},
                {"type": "tool_use", "id": "t2", "name": "weather", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {
                    "type": "tool_result",
                    "tool_use_id": "t1",
                    "content": [{"type": "text", "text": "sunny"}],
                    "cache_control": {"type": "ephemeral"},
                },
                {"type": "tool_result", "tool_use_id": "t2", "content": "no such city", "is_error": True},
                {"type": "text", "text": "And now?"},
            ],
        },
    ]


def test_the_sdks_tool_runner_calls_a_tool_and_gets_the_refined_answer(serve: Serve) -> None:
    seen: list[str] = []

    @beta_tool
    def weather(city: str) -> str:
        """Tells the weather."""
        seen.append(city)
        return "sunny"

    with upstream(GOOD, says(calls(ARGUMENTS)), says({**HELLO, "usage": USAGE})) as cloud:
        with connect(serve(FakeEngine(), **settings(cloud))) as sdk:
            final = sdk.beta.messages.tool_runner(
                model="assistant", max_tokens=99, messages=QUESTION, tools=[weather]
            ).until_done()
        last = asked(cloud)[-1]["messages"]
    assert seen == ["Röm"]
    assert final.content[0].type == "text"
    assert final.content[0].text == "better Hello you"
    assert [message["role"] for message in last] == ["user", "assistant", "tool"]
    assert json.loads(last[1]["tool_calls"][0]["function"]["arguments"]) == {"city": "Röm"}


def test_images_and_documents_reach_an_upstream_in_chats_form(led: str, cloud: Faulty) -> None:
    source = {"type": "base64", "media_type": "image/png", "data": "AA"}
    blocks = [
        {"type": "image", "source": source},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "document", "source": DOCUMENT},
        {"type": "document", "source": source | {"media_type": "application/pdf"}, "title": "a.pdf"},
        {"type": "text", "text": "What is it?"},
    ]
    body = {"model": "assistant", "max_tokens": 99, "messages": [{"role": "user", "content": blocks}]}
    assert httpx2.post(f"{led}/v1/messages", json=body).status_code == 200
    assert asked(cloud)[-1]["messages"][0]["content"] == [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "text", "text": "a text"},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
        {"type": "text", "text": "What is it?"},
    ]


def test_results_come_before_what_the_user_says_beside_them(serve: Serve) -> None:
    engine = FakeEngine()
    turn = conversation()[-1]
    beside = [*turn["content"][2:], *turn["content"][:2], {"type": "document", "source": DOCUMENT}]
    with connect(serve(engine)) as sdk:
        messages: Any = [*conversation()[:-1], turn | {"content": beside}]
        sdk.messages.create(model="fake", max_tokens=99, messages=messages)
    told = "Result of weather:\nsunny\n\nResult of weather:\nError: no such city\n\nAnd now?\na text"
    assert engine.leader.calls[0][0][-1].text == told


def test_an_answer_that_a_filter_cut_is_a_refusal(serve: Serve) -> None:
    choice = {**HELLO["choices"][0], "finish_reason": "content_filter"}
    with upstream(says({**HELLO, "choices": [choice], "usage": USAGE})) as cloud:
        with connect(serve(FakeEngine(), **settings(cloud, rounds=0))) as sdk:
            assert ask(sdk).stop_reason == "refusal"


def test_what_only_an_upstream_takes_reaches_it(led: str, cloud: Faulty) -> None:
    more = {"thinking": {"type": "enabled", "budget_tokens": 2048}, "output_config": {"effort": "high"}}
    body = {"model": "assistant", "max_tokens": 4096, "messages": ASK, "stop_sequences": ["END"], "top_k": 5, **more}
    assert httpx2.post(f"{led}/v1/messages", json=body).status_code == 200
    sent = asked(cloud)[-1]
    assert (sent["thinking"], sent["reasoning_effort"]) == (more["thinking"], "high")
    assert (sent["stop"], sent["top_k"], sent["max_completion_tokens"]) == (["END"], 5, 4096)
    assert not {"tools", "tool_choice", "output_config"} & sent.keys()


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [WEATHER], "tool_choice": {"type": "none"}},
        {"tools": [], "tool_choice": {"type": "auto", "disable_parallel_tool_use": False}},
        {"thinking": {"type": "adaptive", "display": "summarized"}},
        {"thinking": {"type": "disabled"}, "speed": "standard", "service_tier": "auto"},
        {"output_config": {"effort": None, "format": None}, "cache_control": {"type": "ephemeral"}},
        {"context_management": {"edits": []}, "mcp_servers": [], "container": None, "inference_geo": None},
        {"diagnostics": {"previous_message_id": "m"}, "metadata": {"user_id": None}, "refine": None, "stream": None},
    ],
)
def test_what_asks_for_nothing_is_accepted(url: str, more: dict[str, Any]) -> None:
    answer = httpx2.post(f"{url}/v1/messages", json={"max_tokens": 9, "messages": ASK} | more)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
        ({"tools": [{"input_schema": {}}]}, "tools.0.name"),
        ({"tool_choice": {"type": "tool"}}, "tool_choice"),
        ({"thinking": {"type": "enabled", "budget_tokens": 1024}}, "thinking"),
        ({"output_config": {"effort": "low"}}, "output_config.effort"),
        ({"speed": "fast"}, "speed"),
        ({"container": "c"}, "container"),
        ({"inference_geo": "us"}, "inference_geo"),
        ({"mcp_servers": [{"type": "url"}]}, "mcp_servers"),
        ({"context_management": {"edits": [{"type": "x"}]}}, "context_management"),
    ],
)
def test_what_a_bundles_leader_cannot_do_is_refused_by_name(url: str, more: dict[str, Any], param: str) -> None:
    answer = httpx2.post(f"{url}/v1/messages", json={"max_tokens": 9, "messages": ASK} | more)
    assert (answer.status_code, answer.json()["error"]["details"]["param"]) == (400, param)
