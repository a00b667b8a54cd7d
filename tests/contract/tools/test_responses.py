"""Tools on `/v1/responses`, as the official `openai` SDK and OpenAI's published events have them."""

import json
from typing import Any

import httpx2
import openai
import pytest

from slhf_server.models.fake import FakeEngine, improve
from tests.conftest import Serve
from tests.contract.test_upstream_dialects import settings
from tests.contract.tools.calling import WEATHER, Telling, assert_offered, connect
from tests.server.models.upstream.faulty import HELLO, USAGE, says, upstream

TOOLS: list[Any] = [
    {"type": "function", "name": "weather", "description": "Of a city.", "parameters": WEATHER, "strict": True},
    {"type": "function", "name": "clock", "parameters": {"type": "object"}, "strict": None},
]
NAMED: Any = {"type": "function", "name": "weather"}
CALLS = [("c1", "weather", {"city": "Rome", "days": 2}), ("c2", "clock", {})]
ASK = "what is it"


def post(url: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/responses", json={"input": ASK, **body}, timeout=30)


def calls(response: Any) -> list[Any]:
    items = [item for item in response.output if item.type == "function_call"]
    return [(item.call_id, item.name, json.loads(item.arguments)) for item in items]


def test_a_turn_that_calls_tools_is_returned_as_it_is(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    answer = sdk.responses.create(model="fake", input=ASK, tools=TOOLS)
    assert calls(answer) == CALLS
    assert [item.type for item in answer.output] == ["function_call"] * 2
    assert (answer.status, answer.output_text) == ("completed", "")
    assert [tool.name for tool in answer.tools if tool.type == "function"] == ["weather", "clock"]
    report = (answer.model_extra or {})["refinement"]
    assert (report["stop_reason"], report["applied"], report["tools_ignored"]) == ("tool_calls", False, False)
    assert engine.follower.calls == []
    assert_offered(engine)


def test_calls_are_streamed_piece_by_piece_each_in_an_item_of_its_own(sdk: openai.OpenAI) -> None:
    events: list[Any] = list(sdk.responses.create(model="fake", input=ASK, tools=TOOLS, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    pieces = "function_call_arguments.delta"
    assert kinds == [
        *("created", "in_progress", "output_item.added", *[pieces] * 4, "function_call_arguments.done"),
        *("output_item.done", "output_item.added", pieces, "function_call_arguments.done", "output_item.done"),
        "completed",
    ]
    added = [event.item for event in events if event.type == "response.output_item.added"]
    assert [(item.call_id, item.name, item.arguments, item.status) for item in added] == [
        ("c1", "weather", "", "in_progress"),
        ("c2", "clock", "", "in_progress"),
    ]
    done = [event.item for event in events if event.type == "response.output_item.done"]
    assert done == events[-1].response.output
    assert len({item.id for item in done}) == 2
    for number, item in enumerate(done):
        ours = [event for event in events if getattr(event, "output_index", None) == number]
        assert {event.item_id for event in ours if hasattr(event, "item_id")} == {item.id}
        assert "".join(event.delta for event in ours if event.type == f"response.{pieces}") == item.arguments
    assert calls(events[-1].response) == CALLS


def test_the_sdks_stream_helper_builds_the_calls(sdk: openai.OpenAI) -> None:
    with sdk.responses.stream(model="fake", input=ASK, tools=TOOLS) as stream:
        assert calls(stream.get_final_response()) == CALLS


def test_a_conversation_with_results_gets_the_refined_answer(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    first = sdk.responses.create(model="fake", input=ASK, tools=TOOLS)
    results = [{"type": "function_call_output", "call_id": name, "output": f"{name}!"} for name in ("c1", "c2")]
    conversation: Any = [{"role": "user", "content": ASK}, *first.output, *results]
    answer = sdk.responses.create(model="fake", input=conversation, tools=TOOLS)
    assert answer.output_text.startswith("better")
    (follower,) = engine.follower.calls
    assert follower[0][-3].text == "Result of weather:\nc1!\n\nResult of clock:\nc2!"
    assert follower[1].tools is None


@pytest.mark.parametrize("tool_choice", [None, "auto"])
def test_a_turn_in_words_is_refined_and_streamed_though_tools_are_offered(serve: Serve, tool_choice: Any) -> None:
    chosen: Any = {} if tool_choice is None else {"tool_choice": tool_choice}
    with connect(serve(FakeEngine(calls_tools=True))) as sdk:
        events = list(sdk.responses.create(model="fake", input=ASK, tools=TOOLS, stream=True, **chosen))
    deltas = [event.delta for event in events if event.type == "response.output_text.delta"]
    assert deltas == ["better", " draft", " of:", " what", " is", " it"]


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_demanded_call_is_written_under_a_grammar(sdk: openai.OpenAI, engine: FakeEngine, choice: Any) -> None:
    told: Any = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False}
    answer = sdk.responses.create(model="fake", input=ASK, **told)
    sampling = engine.leader.calls[0][1]
    assert sampling.tools is not None
    assert sampling.structure is not None
    assert (sampling.tools.named, sampling.tools.parallel) == ("weather" if choice is NAMED else None, False)
    assert answer.parallel_tool_calls is False
    chosen: Any = answer.tool_choice
    assert (chosen if isinstance(chosen, str) else chosen.model_dump()) == choice


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function", "name": ""}]}, "tools.0.name"),
        ({"tools": [{"type": "function"}]}, "tools.0.name"),
        ({"tools": [TOOLS[1], TOOLS[1]]}, "tools.1.name"),
        ({"tools": [{"type": "web_search"}]}, "tools.0.type"),
        ({"tools": "weather"}, "tools"),
        ({"tools": TOOLS, "tool_choice": {**NAMED, "name": "other"}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "mode": "auto", "tools": []}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": 3}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        ({"tools": TOOLS, "refine": {"draft": "mine"}}, "tools"),
        ({"max_tool_calls": 3}, "max_tool_calls"),
    ],
)
def test_what_is_wrong_with_tools_is_named(url: str, engine: FakeEngine, body: dict[str, Any], param: str) -> None:
    answer = post(url, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert engine.leader.calls == []


def test_tools_are_left_out_where_the_leader_can_call_none_and_the_answer_says_so(serve: Serve) -> None:
    engine = FakeEngine()
    url = serve(engine)
    assert post(url, tools=TOOLS).json()["refinement"]["tools_ignored"] is True
    assert all(sampling.tools is None for _, sampling in engine.leader.calls)
    refused = post(url, tools=TOOLS, tool_choice="required")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tool_choice")
    strict = post(serve(FakeEngine(), tools="reject"), tools=TOOLS)
    assert (strict.status_code, strict.json()["error"]["param"]) == (400, "tools")


def test_words_around_a_call_are_messages_of_their_own_and_leave_the_call_whole(serve: Serve) -> None:
    engine = FakeEngine(calls_tools=True)
    engine.leader = Telling("fake", improve, token_seconds=0, max_model_len=4096)
    with connect(serve(engine)) as sdk:
        whole = sdk.responses.create(model="fake", input=ASK, tools=TOOLS)
        with sdk.responses.stream(model="fake", input=ASK, tools=TOOLS) as stream:
            built = stream.get_final_response()
    for response in (whole, built):
        assert calls(response) == [("c1", "weather", {"city": "Rome"})]
        assert response.output_text == "Let me. Wait for it."
    assert [item.type for item in built.output] == ["message", "function_call", "message"]


def test_an_upstream_leader_gets_tools_as_chat_has_them(serve: Serve) -> None:
    called = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Rome"}'}}
    message = {"role": "assistant", "content": None, "tool_calls": [called]}
    reply = {**HELLO, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}], "usage": USAGE}
    with upstream(says(reply)) as cloud:
        tools = [*TOOLS, {"type": "web_search"}]
        answer = post(serve(FakeEngine(), **settings(cloud)), tools=tools, tool_choice=NAMED).json()
        asked = cloud.asked[-1]
    assert [(item["type"], item["name"]) for item in answer["output"]] == [("function_call", "weather")]
    (weather, _, hosted) = asked.body["tools"]
    assert hosted == {"type": "web_search"}
    described = {"name": "weather", "description": "Of a city.", "parameters": WEATHER, "strict": True}
    assert weather == {"type": "function", "function": described}
    assert asked.body["tool_choice"] == {"type": "function", "function": {"name": "weather"}}
