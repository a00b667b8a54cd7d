"""Tool calls on real vLLM: a random model with Qwen's kind of template, whose grammar makes it call; official SDK."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessageFunctionToolCall
from openai.types.chat.chat_completion import Choice

from tests.engine.conftest import LiveServer, live_server
from tests.engine.tiny import write_tiny_qwen

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ASK: list[Any] = [{"role": "user", "content": "How is the weather?"}]
WEATHER = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Bonn"]}, "days": {"enum": [1, 2, 3]}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
CLOCK = {
    "type": "object",
    "properties": {"zone": {"enum": ["UTC"]}},
    "required": ["zone"],
    "additionalProperties": False,
}
TOOLS: list[Any] = [
    {"type": "function", "function": {"name": "weather", "description": "Of a city.", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "clock", "parameters": CLOCK}},
]
NAMED: Any = {"type": "function", "function": {"name": "weather"}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("tools")
    with live_server(folder, "--bundle", str(write_tiny_qwen(folder / "tiny"))) as live:
        yield live


@pytest.fixture(scope="module")
def sdk(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0, timeout=300) as client:
        yield client


def called(choice: Choice) -> ChatCompletionMessageFunctionToolCall:
    """The one function that the answer calls."""
    calls = choice.message.tool_calls or []
    assert len(calls) == 1
    assert isinstance(calls[0], ChatCompletionMessageFunctionToolCall)
    return calls[0]


def is_call(name: str, arguments: str) -> bool:
    said = json.loads(arguments)
    if name == "clock":
        return bool(said == {"zone": "UTC"})
    return name == "weather" and said.keys() == {"city", "days"} and said["city"] in ("Rome", "Bonn")


def test_a_named_function_is_called_with_arguments_of_its_schema(sdk: openai.OpenAI) -> None:
    answer = sdk.chat.completions.create(model="tiny", messages=ASK, tools=TOOLS, tool_choice=NAMED, seed=1)
    (choice,) = answer.choices
    assert choice.finish_reason == "tool_calls"
    call = called(choice)
    assert call.function.name == "weather"
    assert is_call(call.function.name, call.function.arguments)
    assert call.id
    assert choice.message.content is None
    report = (answer.model_extra or {})["refinement"]
    assert (report["stop_reason"], report["applied"], report["tools_ignored"]) == ("tool_calls", False, False)


@pytest.mark.parametrize("choice", ["required", NAMED])
@pytest.mark.parametrize("rounds", [0, 1])
def test_a_streamed_call_is_the_same_as_a_whole_one(sdk: openai.OpenAI, choice: Any, rounds: int) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": choice, "parallel_tool_calls": False, "temperature": 0}
    asked |= {"max_tokens": 200, "extra_body": {"refine": {"rounds": rounds}}}
    whole = sdk.chat.completions.create(model="tiny", messages=ASK, **asked).choices[0]
    chunks = list(sdk.chat.completions.create(model="tiny", messages=ASK, stream=True, **asked))
    pieces = [call for chunk in chunks for call in chunk.choices[0].delta.tool_calls or ()]
    expected = called(whole)
    assert pieces[0].id
    assert {piece.index for piece in pieces} == {0}
    functions = [piece.function for piece in pieces if piece.function]
    assert [function.name for function in functions if function.name] == [expected.function.name]
    arguments = "".join(function.arguments or "" for function in functions)
    assert json.loads(arguments) == json.loads(expected.function.arguments)
    assert is_call(expected.function.name, arguments)
    assert len(pieces) > 1
    assert not any(chunk.choices[0].delta.content for chunk in chunks)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "tool_calls"


def test_a_call_that_tokens_cut_short_says_so(sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"tools": TOOLS, "tool_choice": NAMED, "max_tokens": 3, "seed": 1}
    answer = sdk.chat.completions.create(model="tiny", messages=ASK, **asked).choices[0]
    assert answer.finish_reason == "length"
    last = list(sdk.chat.completions.create(model="tiny", messages=ASK, stream=True, **asked))[-1]
    assert last.choices[0].finish_reason == "length"


def test_an_agents_loop_ends_in_words_that_are_refined(sdk: openai.OpenAI) -> None:
    asked: dict[str, Any] = {"model": "tiny", "tools": TOOLS, "seed": 1}
    first = sdk.chat.completions.create(
        messages=ASK, tool_choice="required", parallel_tool_calls=False, max_tokens=200, **asked
    )
    call = called(first.choices[0])
    result = {"role": "tool", "tool_call_id": call.id, "content": "sun"}
    messages: list[Any] = [*ASK, first.choices[0].message.model_dump(exclude_none=True), result]
    answer = sdk.chat.completions.create(messages=messages, max_tokens=8, **asked)
    report = (answer.model_extra or {})["refinement"]
    assert (report["stop_reason"], report["applied"]) == ("rounds_done", True)
    assert not answer.choices[0].message.tool_calls


def test_an_agents_loop_over_responses_ends_in_words_that_are_refined(sdk: openai.OpenAI) -> None:
    tools: list[Any] = [{"type": "function", **tool["function"]} for tool in TOOLS]
    demanded: Any = {"tool_choice": "required", "parallel_tool_calls": False, "max_output_tokens": 200}
    first = sdk.responses.create(model="tiny", input=ASK, tools=tools, **demanded)
    (call,) = first.output
    assert call.type == "function_call"
    assert is_call(call.name, call.arguments)
    result = {"type": "function_call_output", "call_id": call.call_id, "output": "sun"}
    conversation: Any = [*ASK, call, result]
    answer = sdk.responses.create(model="tiny", input=conversation, tools=tools, max_output_tokens=8)
    assert (answer.model_extra or {})["refinement"]["applied"]
    assert [item.type for item in answer.output] == ["message"]
    events = list(sdk.responses.create(model="tiny", input=ASK, tools=tools, stream=True, **demanded))
    built: Any = events[-1]
    assert built.type == "response.completed"
    assert is_call(built.response.output[0].name, built.response.output[0].arguments)


def test_the_template_tells_the_leader_of_tools_and_has_a_variable_for_thinking(server: LiveServer) -> None:
    def prompt(**body: Any) -> int:
        asked = {"messages": ASK, "max_tokens": 1, "refine": {"rounds": 0}, **body}
        answer = httpx2.post(f"{server.url}/v1/chat/completions", json=asked, timeout=300)
        return int(answer.raise_for_status().json()["usage"]["prompt_tokens"])

    assert prompt(tools=TOOLS) > prompt() + 50
    assert prompt(chat_template_kwargs={"enable_thinking": False}) > prompt()
    assert prompt(reasoning_effort="none") > prompt() == prompt(reasoning_effort="high")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--tool-parser", "nobodys"], "tool_parser: 'nobodys' is none of vLLM's: "),
        (["--reasoning-parser", "nobodys"], "reasoning_parser: 'nobodys' is none of vLLM's: "),
        (["--tool-parser", "llama3_json"], "tool_parser 'llama3_json': "),
    ],
)
def test_a_parser_that_cannot_be_used_ends_the_start_in_one_line(tmp_path: Path, flags: list[str], said: str) -> None:
    bundle = write_tiny_qwen(tmp_path / "tiny")
    with pytest.raises(AssertionError) as ended, live_server(tmp_path, "--bundle", str(bundle), *flags):
        pass
    assert said in str(ended.value)
