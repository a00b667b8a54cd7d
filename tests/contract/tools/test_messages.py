"""Tools by the bundle's own Leader, as the official `anthropic` SDK and Anthropic's published events have them."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic import beta_tool

from slhf_server.models.fake import FakeEngine, improve
from tests.conftest import Serve
from tests.contract.test_anthropic_sdk import ASK, connect, extra
from tests.contract.tools.calling import WEATHER, Telling, assert_offered

TOOLS: list[Any] = [
    {"name": "weather", "description": "Of a city.", "input_schema": WEATHER},
    {"name": "clock", "input_schema": {"type": "object"}},
]
NAMED = {"type": "tool", "name": "weather"}
BLOCKS = [("c1", "weather", {"city": "Rome", "days": 2}), ("c2", "clock", {})]
QUESTION: Any = ASK


@pytest.fixture
def sdk(url: str) -> Iterator[anthropic.Anthropic]:
    with connect(url) as client:
        yield client


def post(url: str, path: str = "/v1/messages", **body: Any) -> httpx2.Response:
    limit = {} if path.endswith("count_tokens") else {"max_tokens": 99}
    return httpx2.post(url + path, json={"messages": ASK, **limit, **body}, timeout=30)


def blocks(message: Any) -> list[Any]:
    return [(block.id, block.name, block.input) for block in message.content]


def test_a_turn_that_calls_tools_is_returned_as_it_is(sdk: anthropic.Anthropic, engine: FakeEngine) -> None:
    answer = sdk.messages.create(model="fake", max_tokens=99, messages=ASK, tools=TOOLS)
    assert blocks(answer) == BLOCKS
    assert answer.stop_reason == "tool_use"
    report = extra(answer, "refinement")
    assert (report["stop_reason"], report["applied"], report["tools_ignored"]) == ("tool_calls", False, False)
    assert engine.follower.calls == []
    assert_offered(engine)


@pytest.mark.parametrize("refine", [{}, {"rounds": 0}, {"show_rounds": True}, {"timeout_ms": 60_000}])
def test_calls_are_streamed_piece_by_piece_each_in_a_block_of_its_own(
    sdk: anthropic.Anthropic, refine: dict[str, Any]
) -> None:
    with sdk.messages.stream(
        model="fake", max_tokens=99, messages=ASK, tools=TOOLS, extra_body={"refine": refine}
    ) as stream:
        kinds = [(event.type, getattr(event, "index", None)) for event in stream if event.type.startswith("content")]
        built = stream.get_final_message()
    assert blocks(built) == BLOCKS
    assert built.stop_reason == "tool_use"
    first, second = [[kind for kind, index in kinds if index == number] for number in (0, 1)]
    assert first == ["content_block_start", *["content_block_delta"] * 4, "content_block_stop"]
    assert second == ["content_block_start", "content_block_delta", "content_block_stop"]
    assert [index for _, index in kinds] == sorted(index or 0 for _, index in kinds)  # one after the other


def test_the_pieces_of_a_call_are_input_json_deltas_whose_start_has_an_empty_input(url: str) -> None:
    lines = post(url, tools=TOOLS, stream=True).text.splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    starts = [event["content_block"] for event in events if event["type"] == "content_block_start"]
    assert starts[0] == {"type": "tool_use", "id": "c1", "name": "weather", "input": {}}
    pieces = [event["delta"] for event in events if event["type"] == "content_block_delta" and event["index"] == 0]
    assert {piece["type"] for piece in pieces} == {"input_json_delta"}
    assert json.loads("".join(piece["partial_json"] for piece in pieces)) == {"city": "Rome", "days": 2}
    assert (events[-2]["delta"]["stop_reason"], events[-1]["type"]) == ("tool_use", "message_stop")


@pytest.mark.parametrize("tool_choice", [None, {"type": "auto"}])
def test_a_turn_in_words_is_refined_and_streamed_though_tools_are_offered(serve: Serve, tool_choice: Any) -> None:
    with connect(serve(FakeEngine(calls_tools=True))) as sdk:
        chosen: Any = {} if tool_choice is None else {"tool_choice": tool_choice}
        with sdk.messages.stream(model="fake", max_tokens=99, messages=ASK, tools=TOOLS, **chosen) as stream:
            pieces = list(stream.text_stream)
    assert pieces == ["better", " draft", " of:", " what", " is", " it"]


def test_the_sdks_tool_runner_calls_the_tools_and_gets_the_refined_answer(
    sdk: anthropic.Anthropic, engine: FakeEngine
) -> None:
    seen: list[str] = []

    @beta_tool
    def weather(city: str, days: int) -> str:
        """Tells the weather."""
        seen.append(f"{city} {days}")
        return "sunny"

    @beta_tool
    def clock() -> str:
        """Tells the time."""
        return "noon"

    for streams in (False, True):
        final = sdk.beta.messages.tool_runner(
            model="fake", max_tokens=99, messages=QUESTION, tools=[weather, clock], stream=streams
        ).until_done()
        (block,) = final.content
        assert block.type == "text"
        assert block.text.startswith("better")
    assert seen == ["Rome 2"] * 2
    assert [turns[-3].text for turns, _ in engine.follower.calls] == [
        "Result of weather:\nsunny\n\nResult of clock:\nnoon"
    ] * 2


@pytest.mark.parametrize("choice", [{"type": "any"}, NAMED])
def test_a_demanded_call_is_written_under_a_grammar(sdk: anthropic.Anthropic, engine: FakeEngine, choice: Any) -> None:
    chosen = choice | {"disable_parallel_tool_use": True}
    sdk.messages.create(model="fake", max_tokens=99, messages=ASK, tools=TOOLS, tool_choice=chosen)
    sampling = engine.leader.calls[0][1]
    assert sampling.tools is not None
    assert sampling.structure is not None
    assert (sampling.tools.named, sampling.tools.parallel) == (choice.get("name"), False)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"tools": [{"name": ""}]}, "tools.0.name"),
        ({"tools": [TOOLS[1], TOOLS[1]]}, "tools.1.name"),
        ({"tools": [{"type": "bash_20250124", "name": "bash"}]}, "tools.0.type"),
        ({"tools": TOOLS, "tool_choice": NAMED | {"name": "other"}}, "tool_choice"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [], "tool_choice": NAMED}, "tool_choice"),
        ({"tools": [{"name": "a", "input_schema": {"type": "nothing"}}], "tool_choice": {"type": "any"}}, "tools"),
        ({"tools": TOOLS, "refine": {"draft": "mine"}}, "tools"),
    ],
)
def test_what_is_wrong_with_tools_is_named(url: str, engine: FakeEngine, body: dict[str, Any], param: str) -> None:
    answer = post(url, **body)
    assert (answer.status_code, answer.json()["error"]["details"]["param"]) == (400, param), answer.text
    assert engine.leader.calls == []


def test_tools_are_left_out_where_the_leader_can_call_none_and_the_answer_says_so(serve: Serve) -> None:
    engine = FakeEngine()
    url = serve(engine)
    with connect(url) as sdk:
        answer = sdk.messages.create(model="fake", max_tokens=99, messages=ASK, tools=TOOLS)
        with sdk.messages.stream(model="fake", max_tokens=99, messages=ASK, tools=TOOLS) as stream:
            ends = [event for event in stream if event.type == "message_delta"]
    assert extra(answer, "refinement")["tools_ignored"] is True
    assert (ends[0].model_extra or {})["refinement"]["tools_ignored"] is True
    assert all(sampling.tools is None for _, sampling in engine.leader.calls)
    assert post(url, tools=TOOLS, tool_choice={"type": "none"}).json()["refinement"]["tools_ignored"] is False


@pytest.mark.parametrize("choice", [{"type": "any"}, NAMED])
@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
def test_a_demanded_call_is_refused_where_the_leader_can_call_none(serve: Serve, path: str, choice: Any) -> None:
    answer = post(serve(FakeEngine()), path, tools=TOOLS, tool_choice=choice)
    assert (answer.status_code, answer.json()["error"]["details"]["param"]) == (400, "tool_choice")


def test_an_operator_may_have_tools_refused_where_the_leader_can_call_none(serve: Serve) -> None:
    url = serve(FakeEngine(), tools="reject")
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        answer = post(url, path, tools=TOOLS)
        assert (answer.status_code, answer.json()["error"]["details"]["param"]) == (400, "tools")


def test_tools_count_where_the_leader_is_told_of_them_and_only_there(serve: Serve, sdk: anthropic.Anthropic) -> None:
    plain = sdk.messages.count_tokens(model="fake", messages=ASK).input_tokens
    assert sdk.messages.count_tokens(model="fake", messages=ASK, tools=TOOLS).input_tokens > plain
    none: Any = {"type": "none"}
    assert sdk.messages.count_tokens(model="fake", messages=ASK, tools=TOOLS, tool_choice=none).input_tokens == plain
    with connect(serve(FakeEngine())) as other:
        assert other.messages.count_tokens(model="fake", messages=ASK, tools=TOOLS).input_tokens == plain


@pytest.mark.parametrize("refine", [{}, {"rounds": 0}, {"show_rounds": True}])
def test_words_around_a_call_are_blocks_of_their_own_and_leave_the_call_whole(
    serve: Serve, refine: dict[str, Any]
) -> None:
    engine = FakeEngine(calls_tools=True)
    engine.leader = Telling("fake", improve, token_seconds=0, max_model_len=4096)
    with connect(serve(engine)) as sdk:
        asked: dict[str, Any] = {"model": "fake", "max_tokens": 99, "messages": ASK, "tools": TOOLS}
        whole = sdk.messages.create(**asked, extra_body={"refine": refine})
        with sdk.messages.stream(**asked, extra_body={"refine": refine}) as stream:
            built = stream.get_final_message()
    for message in (whole, built):
        content: Any = message.content
        assert [block.input for block in content if block.type == "tool_use"] == [{"city": "Rome"}]
        assert "".join(block.text for block in content if block.type == "text") == "Let me. Wait for it."
    assert [block.type for block in built.content if block.type != "thinking"] == ["text", "tool_use", "text"]
