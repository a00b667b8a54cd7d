"""Tool calls by the bundle's own Leader, as the official SDK and OpenAI's published shape have them."""

import json
from typing import Any

import httpx2
import openai
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.contract.tools.calling import CALL, OTHER, WEATHER

ASK: list[Any] = [{"role": "user", "content": "what is it"}]
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "clock"}},
]
NAMED = {"type": "function", "function": {"name": "weather"}}


def post(url: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK, **body}, timeout=30)


def test_a_turn_that_calls_tools_is_returned_as_it_is(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    answer = sdk.chat.completions.create(model="fake", messages=ASK, tools=TOOLS)
    choice = answer.choices[0]
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content is None
    assert [call.model_dump(exclude_none=True) for call in choice.message.tool_calls or ()] == [CALL, OTHER]
    report = (answer.model_extra or {})["refinement"]
    assert (report["stop_reason"], report["applied"], report["rounds_run"]) == ("tool_calls", False, 0)
    assert report["tools_ignored"] is False
    assert engine.follower.calls == []


def test_the_leader_alone_is_told_of_the_tools(sdk: openai.OpenAI, engine: FakeEngine) -> None:
    messages = [*ASK, {"role": "assistant", "tool_calls": [CALL]}]
    messages.append({"role": "tool", "tool_call_id": "c1", "content": "sun"})
    answer = sdk.chat.completions.create(model="fake", messages=messages, tools=TOOLS)
    assert (answer.choices[0].message.content or "").startswith("better better")
    (leader,), (follower,) = engine.leader.calls, engine.follower.calls
    assert leader[1].tools is not None
    assert [tool["function"]["name"] for tool in leader[1].tools.offered] == ["weather", "clock"]
    assert follower[1].tools is None


@pytest.mark.parametrize("refine", [{}, {"rounds": 0}, {"show_rounds": True}, {"timeout_ms": 60_000}])
def test_calls_are_streamed_piece_by_piece(sdk: openai.OpenAI, refine: dict[str, Any]) -> None:
    stream = sdk.chat.completions.create(
        model="fake", messages=ASK, tools=TOOLS, stream=True, extra_body={"refine": refine}
    )
    chunks = [chunk for chunk in stream if chunk.choices]
    deltas = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    firsts = [call for call in deltas if call.id]
    assert [(call.index, call.id, call.type) for call in firsts] == [(0, "c1", "function"), (1, "c2", "function")]
    assert [call.function.name for call in firsts if call.function] == ["weather", "clock"]
    arguments = ["", ""]
    for call in deltas:
        assert call.function is not None
        arguments[call.index] += call.function.arguments or ""
    assert list(map(json.loads, arguments)) == [{"city": "Rome", "days": 2}, {}]
    assert len(deltas) > 4  # not each call in one
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"
    assert not any(chunk.choices[0].delta.content for chunk in chunks)


def test_the_sdks_own_accumulator_reads_the_stream(sdk: openai.OpenAI) -> None:
    with sdk.chat.completions.stream(model="fake", messages=ASK, tools=TOOLS) as stream:
        answer = stream.get_final_completion()
    calls = answer.choices[0].message.tool_calls or []
    assert [(call.id, call.function.name) for call in calls] == [("c1", "weather"), ("c2", "clock")]
    assert json.loads(calls[0].function.arguments) == {"city": "Rome", "days": 2}


def test_a_turn_in_words_is_refined_and_streamed_though_tools_are_offered(serve: Serve) -> None:
    url = serve(FakeEngine(calls_tools=True))
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
        stream = sdk.chat.completions.create(model="fake", messages=ASK, tools=TOOLS, stream=True)
        pieces = [chunk.choices[0].delta.content for chunk in stream if chunk.choices[0].delta.content]
    assert pieces == ["better", " draft", " of:", " what", " is", " it"]


@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_demanded_call_is_written_under_a_grammar_and_an_answer_is_not(
    sdk: openai.OpenAI, engine: FakeEngine, choice: Any
) -> None:
    sdk.chat.completions.create(model="fake", messages=ASK, tools=TOOLS, tool_choice=choice)
    sampling = engine.leader.calls[0][1]
    assert sampling.structure is not None
    schema = json.loads(sampling.structure.text)
    if choice == NAMED:
        assert schema == WEATHER
    else:
        names = [item["properties"]["name"] for item in schema["items"]["anyOf"]]
        assert (names, schema["minItems"]) == ([{"const": "weather"}, {"const": "clock"}], 1)
        assert schema["items"]["anyOf"][0]["properties"]["parameters"] == WEATHER


def test_references_of_a_tools_schema_still_lead_to_their_definitions(url: str, engine: FakeEngine) -> None:
    city = {"type": "object", "properties": {"city": {"$ref": "#/$defs/City"}}, "$defs": {"City": {"enum": ["Rome"]}}}
    tool = {"type": "function", "function": {"name": "weather", "parameters": city}}
    assert post(url, tools=[tool], tool_choice="required").status_code == 200
    structure = engine.leader.calls[0][1].structure
    assert structure is not None
    assert json.loads(structure.text)["$defs"] == {"City": {"enum": ["Rome"]}}
    other = {"type": "function", "function": {"name": "b", "parameters": {"$defs": {"City": {"enum": ["Bonn"]}}}}}
    refused = post(url, tools=[tool, other], tool_choice="required")
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "tools")


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"type": "function"}]}, "tools.0.type"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0.type"),
        ({"tools": [{"type": "function", "function": {"name": ""}}]}, "tools.0.function.name"),
        ({"tools": [TOOLS[1], TOOLS[1]]}, "tools.1.function.name"),
        ({"tools": "weather"}, "tools"),
        ({"tools": [{"type": "function", "function": {"name": f"f{number}"}} for number in range(513)]}, "tools"),
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "other"}}}, "tool_choice"),
        ({"tools": TOOLS, "tool_choice": "sometimes"}, "tool_choice"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": TOOLS, "parallel_tool_calls": "no"}, "parallel_tool_calls"),
        (
            {
                "tools": [{"type": "function", "function": {"name": "a", "parameters": {"type": "nothing"}}}],
                "tool_choice": "required",
            },
            "tools",
        ),
    ],
)
def test_what_is_wrong_with_tools_is_named(url: str, engine: FakeEngine, body: dict[str, Any], param: str) -> None:
    answer = post(url, **body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert engine.leader.calls == []


def test_one_call_at_a_time_is_a_wish_that_reaches_the_leader(url: str, engine: FakeEngine) -> None:
    post(url, tools=TOOLS, tool_choice="required", parallel_tool_calls=False)
    sampling = engine.leader.calls[0][1]
    assert sampling.tools is not None
    assert sampling.structure is not None
    assert (sampling.tools.parallel, json.loads(sampling.structure.text)["maxItems"]) == (False, 1)


def test_response_format_binds_the_answer_and_not_the_turn_that_may_call(url: str, engine: FakeEngine) -> None:
    wanted = {"type": "json_object"}
    messages = [*ASK, {"role": "assistant", "content": "a"}, {"role": "user", "content": "b"}]
    post(url, messages=messages, tools=TOOLS, response_format=wanted)
    assert engine.leader.calls[0][1].structure is None
    assert engine.follower.calls[0][1].structure is not None
    post(url, messages=messages, tools=TOOLS, response_format=wanted, refine={"rounds": 0})
    assert engine.leader.calls[1][1].structure is not None


def test_tools_are_left_out_where_the_leader_can_call_none_and_the_answer_and_a_metric_say_so(serve: Serve) -> None:
    engine = FakeEngine()
    url = serve(engine)
    answer = post(url, tools=TOOLS, tool_choice="auto").json()
    assert answer["choices"][0]["message"]["content"] == "better draft of: what is it"
    assert answer["refinement"]["tools_ignored"] is True
    assert engine.leader.calls[0][1].tools is None
    usage = {"include_usage": True}
    lines = post(url, tools=TOOLS, stream=True, stream_options=usage).text.splitlines()
    last = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: {")][-1]
    assert last["refinement"]["tools_ignored"] is True
    assert post(url).json()["refinement"]["tools_ignored"] is False
    assert post(url, tools=TOOLS, tool_choice="none").json()["refinement"]["tools_ignored"] is False
    assert 'slhf_tools_ignored_total{model_name="fake"} 2.0' in httpx2.get(f"{url}/metrics").text


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("setting", ["ignore", "reject"])
def test_a_demanded_call_is_refused_where_the_leader_can_call_none(serve: Serve, setting: str, choice: Any) -> None:
    answer = post(serve(FakeEngine(), tools=setting), tools=TOOLS, tool_choice=choice)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tool_choice")


def test_an_operator_may_have_tools_refused_where_the_leader_can_call_none(serve: Serve) -> None:
    url = serve(FakeEngine(), tools="reject")
    answer = post(url, tools=TOOLS)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "tools")
    assert post(url, tools=TOOLS, tool_choice="none").status_code == 200


def test_the_chat_templates_variables_go_to_both_roles_where_it_knows_them(serve: Serve) -> None:
    engine = FakeEngine(template_options=["enable_thinking"])
    url = serve(engine)
    assert post(url, chat_template_kwargs={"enable_thinking": False}).status_code == 200
    for role in (engine.leader, engine.follower):
        assert role.calls[0][1].template_options == {"enable_thinking": False}
    unknown = post(url, chat_template_kwargs={"thinking_budget": 5})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (400, "chat_template_kwargs")
    assert "enable_thinking" in unknown.json()["error"]["message"]
    wrong: list[Any] = [{}, "x" * 201]
    for value in wrong:
        assert post(url, chat_template_kwargs={"enable_thinking": value}).status_code == 400
    assert post(url, chat_template_kwargs={"enable_thinking": True}, reasoning_effort="none").status_code == 200
    assert engine.leader.calls[-1][1].template_options == {"enable_thinking": True}


@pytest.mark.parametrize(
    ("known", "effort", "told"),
    [
        (["reasoning_effort"], "high", {"reasoning_effort": "high"}),
        (["reasoning_effort", "enable_thinking"], "low", {"reasoning_effort": "low", "enable_thinking": True}),
        (["enable_thinking"], "none", {"enable_thinking": False}),
        (["thinking"], "medium", {"thinking": True}),
        ([], "none", {}),
    ],
)
def test_reasoning_effort_is_what_the_template_has_for_it(
    serve: Serve, known: list[str], effort: str, told: dict[str, Any]
) -> None:
    engine = FakeEngine(template_options=known)
    assert post(serve(engine), reasoning_effort=effort).status_code == 200
    assert engine.leader.calls[0][1].template_options == told


def test_reasoning_effort_is_refused_where_the_template_has_nothing_for_it(serve: Serve) -> None:
    url = serve(FakeEngine())
    for effort in ("high", "extreme"):
        answer = post(url, reasoning_effort=effort)
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "reasoning_effort")
