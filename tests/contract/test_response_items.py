"""`/v1/responses`: what an answer's `output` holds can be sent back in `input`, whoever wrote it."""

from typing import Any

import httpx2
import openai
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.contract.test_upstream_leader import asked, settings
from tests.server.models.upstream.faulty import HELLO, USAGE, Faulty, says, upstream

Json = dict[str, Any]
BEFORE: Json = {"role": "user", "content": "What is it?"}
AFTER: Json = {"role": "user", "content": [{"type": "input_text", "text": "And now?"}]}
OUTPUT_TEXT: Json = {"type": "output_text", "text": "Rome.", "annotations": [{"type": "file_citation"}], "logprobs": []}
MESSAGE: Json = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "phase": "final_answer"}
CALL: Json = {
    "type": "function_call",
    "id": "fc_1",
    "call_id": "c1",
    "name": "f",
    "arguments": "{}",
    "status": "completed",
}
RESULT: Json = {"type": "function_call_output", "call_id": "c1", "output": "sunny"}

ITEMS: dict[str, tuple[list[Json], list[str]]] = {
    # the items between the two questions, and what is read of them
    "a message": ([MESSAGE | {"content": [OUTPUT_TEXT]}], ["Rome."]),
    "an easy message": ([{"role": "assistant", "content": "Rome."}], ["Rome."]),
    "nulls": ([{"type": None, "id": None, "status": None, "role": "assistant", "content": "Rome."}], ["Rome."]),
    "a text of nothing": ([MESSAGE | {"content": [OUTPUT_TEXT | {"text": None}, OUTPUT_TEXT]}], ["Rome."]),
    "a refusal": ([MESSAGE | {"content": [{"type": "refusal", "refusal": "no"}]}], ["no"]),
    "a reasoning model's": (
        [
            {"type": "reasoning", "id": "rs_1", "summary": [{"type": "summary_text", "text": "hm"}], "content": None},
            {"type": "reasoning", "id": "rs_2", "summary": [], "encrypted_content": "gAAA", "status": None},
            MESSAGE | {"content": [OUTPUT_TEXT]},
        ],
        ["Rome."],
    ),
    "vLLM's thoughts": (
        [
            {"type": "reasoning", "content": [{"type": "reasoning_text", "text": "hm"}]},
            MESSAGE | {"content": [OUTPUT_TEXT]},
        ],
        ["Rome."],
    ),
    "a call and its result": ([CALL, RESULT], ["Called f with {}", "Result of f:\nsunny"]),
    "two calls": (
        [CALL, CALL | {"call_id": "c2", "name": "g"}, RESULT | {"call_id": "c2"}, RESULT],
        ["Called f with {}\nCalled g with {}", "Result of g:\nsunny\n\nResult of f:\nsunny"],
    ),
    "words and a call": (
        [MESSAGE | {"content": [OUTPUT_TEXT]}, CALL, RESULT | {"id": None, "status": "completed"}],
        ["Rome.\nCalled f with {}", "Result of f:\nsunny"],
    ),
    "a result in parts": (
        [CALL, RESULT | {"output": [{"type": "input_text", "text": "sun"}, {"type": "input_text", "text": "ny"}]}],
        ["Called f with {}", "Result of f:\nsun\nny"],
    ),
    "a custom tool's": (
        [
            {"type": "custom_tool_call", "call_id": "c1", "name": "f", "input": "in Rome"},
            {"type": "custom_tool_call_output", "call_id": "c1", "output": "sunny"},
        ],
        ["Called f with in Rome", "Result of f:\nsunny"],
    ),
    "hosted tools'": (
        [
            {
                "type": "web_search_call",
                "id": "ws_1",
                "status": "completed",
                "action": {"type": "search", "query": "q"},
            },
            {"type": "file_search_call", "id": "fs_1", "queries": ["q"], "status": "completed", "results": None},
            {"type": "code_interpreter_call", "id": "ci_1", "code": "1", "container_id": "c", "outputs": None},
            {"type": "image_generation_call", "id": "ig_1", "result": "AAAA", "status": "completed"},
            {"type": "mcp_list_tools", "id": "ml_1", "server_label": "s", "tools": []},
            {"type": "mcp_call", "id": "mc_1", "server_label": "s", "name": "n", "arguments": "{}", "output": "o"},
            MESSAGE | {"content": [OUTPUT_TEXT]},
        ],
        ["Rome."],
    ),
    "chat's messages": (
        [
            {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", "function": {"name": "f"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "sunny"},
        ],
        ["Called f with {}", "Result of f:\nsunny"],
    ),
    "Ollama's result": (
        [
            {"role": "assistant", "content": None, "tool_calls": [{"function": {"name": "f", "arguments": {}}}]},
            {"role": "tool", "tool_name": "f", "content": "sunny"},
        ],
        ["Called f with {}", "Result of f:\nsunny"],
    ),
    "an older call": (
        [
            {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
            {"role": "function", "name": "f", "content": "sunny"},
        ],
        ["Called f with {}", "Result of f:\nsunny"],
    ),
    "a spoken answer": (
        [{"role": "assistant", "content": None, "audio": {"id": "a", "transcript": "Rome."}}],
        ["Rome."],
    ),
    "unknown keys": ([MESSAGE | {"x": 1, "content": [OUTPUT_TEXT | {"y": 1}, {"type": "z"}]}], ["Rome."]),
}
each_answer = pytest.mark.parametrize(("items", "texts"), ITEMS.values(), ids=list(ITEMS))


def respond(url: str, items: Any, **more: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/responses", json={"input": items, **more})


@each_answer
def test_an_answers_items_are_read_as_they_are(
    url: str, engine: FakeEngine, items: list[Json], texts: list[str]
) -> None:
    answer = respond(url, [BEFORE, *items, AFTER])
    assert answer.status_code == 200, answer.text
    told = ["What is it?", *texts, "And now?"]
    if told[-2].startswith("Result of "):  # one turn with what the user says next
        told[-2:] = ["\n\n".join(told[-2:])]
    assert [turn.text for turn in engine.leader.calls[-1][0]] == told


@each_answer
def test_an_answers_items_reach_an_upstream_as_a_chat(
    led: str, cloud: Faulty, items: list[Json], texts: list[str]
) -> None:
    assert respond(led, [BEFORE, *items, AFTER]).status_code == 200
    sent = asked(cloud)[-1]["messages"]
    assert {message["role"] for message in sent} <= {"user", "assistant", "tool", "function"}
    for message in sent:
        for part in message["content"] if isinstance(message["content"], list) else []:
            assert part["type"] in ("text", "refusal")
    for before, message in zip(sent, sent[1:], strict=False):  # OpenAI's rule: a result follows its call
        assert message["role"] != "tool" or before["role"] == "tool" or before["tool_calls"]


def test_an_image_and_a_file_reach_an_upstream_in_chats_form(led: str, cloud: Faulty) -> None:
    parts = [
        {"type": "input_text", "text": "What is it?"},
        {"type": "input_image", "image_url": "data:image/png;base64,AA", "detail": "low", "file_id": None},
        {"type": "input_file", "filename": "a.pdf", "file_data": "data:application/pdf;base64,AA", "file_id": None},
    ]
    assert respond(led, [{"role": "user", "content": parts}]).status_code == 200
    assert asked(cloud)[-1]["messages"][0]["content"] == [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA", "detail": "low"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,AA"}},
    ]


@pytest.mark.parametrize(
    ("item", "param"),
    [
        ({"type": "item_reference", "id": "msg_1"}, "input.0.type"),
        ({"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot"}}, "input.0.type"),
        ({"type": "compaction", "encrypted_content": "gAAA"}, "input.0.type"),
        ({"type": "x" * 5000}, "input.0.type"),
        ({"type": 5}, "input.0.type"),
        ({"id": "msg_1"}, "input.0.role"),
        ({"role": "narrator", "content": "x"}, "input.0.role"),
        ({"role": "user", "content": [{"type": "input_text", "text": 5}]}, "input.0.content.0.text"),
        ({"role": "user", "content": [{"type": "input_image", "image_url": "u"}]}, "input.0.content.0.type"),
        ({"role": "user", "content": [{"type": "input_image", "file_id": "f"}]}, "input.0.content.0.type"),
        ({"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}, "input.0.content.0.type"),
        ({"role": "user", "content": [{"type": "smell"}]}, "input.0.content.0.type"),
        (RESULT | {"output": [{"type": "input_image", "image_url": "u"}]}, "input.0.output.0.type"),
        ({"type": "function_call", "call_id": "c"}, "input.0.name"),
        ({"type": "function_call_output", "output": "x"}, "input.0.call_id"),
        ({"type": "function_call_output", "call_id": "c"}, "input.0.output"),
        ("x", "input.0"),
        (None, "input.0"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(url: str, item: Any, param: str) -> None:
    answer = respond(url, [item, AFTER])
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)
    assert len(answer.content) < 1_000


@pytest.mark.parametrize(
    "more",
    [
        {"text": None},
        {"text": {"format": None, "verbosity": None}},
        {"text": {"format": {"type": "text", "name": None, "schema": None, "strict": None}}},
        {"reasoning": {}},
        {"reasoning": {"effort": None, "summary": None}},
        {"reasoning": {"effort": "none", "summary": None}},
        {"include": None, "tools": None, "tool_choice": None, "metadata": None, "truncation": None},
        {"include": ["reasoning.encrypted_content"]},
        {"stream_options": {"include_obfuscation": None}},
        {"stream_options": {"include_obfuscation": True}},
        {"tools": [{"type": "function", "name": "f", "parameters": {}}], "tool_choice": "none"},
        {"refine": {"rounds": None, "show_rounds": None}},
        {"refine": None, "stream": None, "instructions": None},
    ],
)
def test_what_asks_for_nothing_is_accepted(url: str, more: Json) -> None:
    assert respond(url, "What is it?", **more).status_code == 200


def test_a_deeply_nested_schema_is_no_bug_of_ours(url: str) -> None:
    schema: Json = {}
    for _ in range(400):
        schema = {"anyOf": [schema]}
    answer = respond(url, "x", text={"format": {"type": "json_schema", "name": "a", "schema": schema}})
    assert answer.status_code in (200, 400), answer.text


def test_an_answer_that_a_filter_cut_is_incomplete(serve: Serve) -> None:
    choice = {**HELLO["choices"][0], "finish_reason": "content_filter"}
    with upstream(says({**HELLO, "choices": [choice], "usage": USAGE})) as cloud:
        url = serve(FakeEngine(), **settings(cloud, rounds=0))
        with openai.OpenAI(base_url=f"{url}/v1", api_key="none") as sdk:
            answer = sdk.responses.create(model="assistant", input="What is it?")
    assert answer.status == "incomplete"
    assert answer.incomplete_details is not None
    assert answer.incomplete_details.reason == "content_filter"
