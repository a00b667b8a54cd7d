"""A reasoning parser of vLLM's on real vLLM: thoughts in another family's way, and grammars that begin after them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from tests.engine.conftest import LiveServer, live_server
from tests.engine.test_tools import ASK, NAMED, TOOLS, is_call
from tests.engine.tiny import write_tiny_qwen

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

QUIET = {"enable_thinking": False}
"""The prompt then ends with thoughts that are already closed."""
SCHEMA = {"name": "a", "schema": {"type": "object", "properties": {"a": {"enum": [1, 2]}}, "required": ["a"]}}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("thinking")
    bundle = write_tiny_qwen(folder / "tiny", reasoning_parser="qwen3", tool_parser="hermes")
    with live_server(folder, "--bundle", str(bundle)) as live:
        yield live


def ask(server: LiveServer, **body: Any) -> dict[str, Any]:
    asked = {"messages": ASK, "max_tokens": 60, "seed": 1, "refine": {"rounds": 0}, **body}
    answer = httpx2.post(f"{server.url}/v1/chat/completions", json=asked, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


@pytest.mark.parametrize("choice", [NAMED, "required"])
def test_a_demanded_call_comes_where_the_prompt_has_ended_the_thoughts(server: LiveServer, choice: Any) -> None:
    answer = ask(server, tools=TOOLS, tool_choice=choice, parallel_tool_calls=False, chat_template_kwargs=QUIET)
    (call,) = answer["choices"][0]["message"]["tool_calls"]
    assert is_call(call["function"]["name"], call["function"]["arguments"])


def test_structured_output_is_written_where_the_prompt_has_ended_the_thoughts(server: LiveServer) -> None:
    wanted = {"type": "json_schema", "json_schema": SCHEMA}
    answer = ask(server, response_format=wanted, chat_template_kwargs=QUIET, refine={"rounds": 1, "max_tokens": 40})
    assert json.loads(answer["choices"][0]["message"]["content"])["a"] in (1, 2)


def test_thoughts_that_never_end_are_no_answer(server: LiveServer) -> None:
    answer = ask(server, max_tokens=12)
    assert (answer["choices"][0]["message"]["content"], answer["choices"][0]["finish_reason"]) == ("", "length")
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 12
    stream = httpx2.post(
        f"{server.url}/v1/chat/completions",
        json={"messages": ASK, "max_tokens": 12, "seed": 1, "refine": {"rounds": 0}, "stream": True},
        timeout=300,
    )
    frames = [json.loads(line[6:]) for line in stream.text.splitlines() if line.startswith("data: {")]
    assert not any(frame["choices"][0]["delta"].get("content") for frame in frames)


def test_words_come_where_the_prompt_has_ended_the_thoughts(server: LiveServer) -> None:
    answer = ask(server, max_tokens=12, chat_template_kwargs=QUIET, ignore_eos=True)
    assert answer["choices"][0]["message"]["content"].strip()
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 0
