"""Histories are written by others: whatever a neighbour's answer holds, it can be appended and goes on as it was."""

import json
import logging
from collections.abc import Iterator
from typing import Any

import httpx2
import openai
import pytest
from openai.types.chat import ChatCompletionMessage
from pydantic import BaseModel

from slhf import Client, RefineRequest
from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.contract.histories import ASKED, HISTORIES, History
from tests.contract.test_upstream_leader import asked
from tests.server.models.upstream.faulty import Faulty

BEFORE: Any = {"role": "user", "content": "What is it?"}
AFTER: Any = {"role": "user", "content": "And now?"}
ENDPOINTS = ["/v1/chat/completions", "/v1/refine"]
each_history = pytest.mark.parametrize("history", HISTORIES.values(), ids=list(HISTORIES))


@pytest.fixture(scope="module")
def sdk(url: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def read(engine: FakeEngine) -> str:
    """All that the Leader was shown last."""
    return "\n\n".join(turn.text for turn in engine.leader.calls[-1][0])


def expected(history: History) -> str:
    return "\n\n".join(["What is it?", *history.texts, "And now?"])


@each_history
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_neighbours_answer_is_read_as_it_is(url: str, engine: FakeEngine, endpoint: str, history: History) -> None:
    answer = httpx2.post(url + endpoint, json={"messages": [BEFORE, *history.messages, AFTER]})
    assert answer.status_code == 200, answer.text
    assert read(engine) == expected(history)


@each_history
def test_a_neighbours_answer_reaches_an_upstream_untouched(led: str, cloud: Faulty, history: History) -> None:
    messages = [BEFORE, *history.messages, AFTER]
    answer = httpx2.post(f"{led}/v1/chat/completions", json={"messages": messages})
    assert answer.status_code == 200, answer.text
    assert asked(cloud)[-1]["messages"] == messages


@each_history
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the SDK's, where content is no string
def test_the_sdks_own_objects_are_read_like_their_json(
    sdk: openai.OpenAI, engine: FakeEngine, history: History
) -> None:
    objects: list[Any] = [
        ChatCompletionMessage.construct(**message) if message["role"] == "assistant" else message
        for message in history.messages
    ]
    sdk.chat.completions.create(model="fake", messages=[BEFORE, *objects, AFTER])
    assert read(engine) == expected(history)


@pytest.mark.parametrize("question", ASKED.values(), ids=list(ASKED))
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_users_message_is_read_whatever_it_carries_beside_its_text(
    url: str, engine: FakeEngine, endpoint: str, question: dict[str, Any]
) -> None:
    answer = httpx2.post(url + endpoint, json={"messages": [{"role": "system", "content": "s", "x": 1}, question]})
    assert answer.status_code == 200, answer.text
    assert read(engine) == "s\n\nWhat is it?"


@pytest.mark.parametrize("role", ["user", "system", "developer", "tool"])
@pytest.mark.parametrize("part", [{"type": "smell", "smell": "x"}, {"type": "tool_result", "content": "x"}, {"x": 1}])
def test_a_part_that_nobody_would_read_is_refused_by_name(url: str, role: str, part: dict[str, Any]) -> None:
    told = {"role": role, "content": [{"type": "text", "text": "a"}, part], "tool_call_id": "c1"}
    for options in ({}, {"draft": "d"}):
        for endpoint, body in ((ENDPOINTS[0], {"refine": options}), (ENDPOINTS[1], options)):
            answer = httpx2.post(url + endpoint, json={"messages": [told, AFTER], **body})
            error = answer.json()["error"]
            assert (answer.status_code, error["param"]) == (400, "messages.0.content.1.type")
            assert repr(part.get("type", "")) in error["message"]


def test_an_unknown_part_of_a_users_goes_to_an_upstream(led: str, cloud: Faulty) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "smell", "smell": "x"}]
    answer = httpx2.post(f"{led}/v1/chat/completions", json={"messages": [{"role": "user", "content": parts}]})
    assert answer.status_code == 200, answer.text
    assert asked(cloud)[-1]["messages"] == [{"role": "user", "content": parts}]


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "narrator", "content": "x"}, "messages.0.role"),
        ({"role": "user", "content": 3}, "messages.0.content"),
        ({"role": "user", "content": [3]}, "messages.0.content.0"),
        ({"role": "user", "content": [{"type": "text", "text": 3}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": [{"type": "text"}]}, "messages.0.content.0.text"),
        ({"role": "user", "content": None}, "messages.0"),
        ({"role": "system"}, "messages.0"),
        ({"role": "tool", "content": "x"}, "messages.0"),
        ({"role": "user", "content": "x", "tool_calls": [{"function": {"name": "f"}}]}, "messages.0"),
        ({"role": "assistant", "tool_calls": [{"function": {}}]}, "messages.0.tool_calls.0.function.name"),
        (
            {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": 3}}]},
            "messages.0.tool_calls.0.function.arguments",
        ),
        ("x", "messages.0"),
        (None, "messages.0"),
    ],
)
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_what_is_read_must_make_sense(url: str, endpoint: str, message: Any, param: str) -> None:
    answer = httpx2.post(url + endpoint, json={"messages": [message, AFTER]})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_what_is_not_read_is_named_once_in_the_log_and_never_shown(url: str, caplog: pytest.LogCaptureFixture) -> None:
    odd = {f"key_{n:03}": "SECRET" for n in range(100)} | {"a" * 10_000: 1, "line\nbreak": 1}
    messages = [AFTER | odd, {"role": "assistant", "content": [{"type": "text", "text": "b", "x": "SECRET"}]}, AFTER]
    with caplog.at_level(logging.DEBUG, logger="slhf_server.refinement.conversation"):
        assert httpx2.post(f"{url}/v1/chat/completions", json={"messages": messages}).status_code == 200
    (line,) = [record.getMessage() for record in caplog.records if record.name == "slhf_server.refinement.conversation"]
    assert "'content.x'" in line
    assert "SECRET" not in line
    assert "\n" not in line
    assert len(line) < 2_000


def test_the_clients_own_history_travels_on_whole(url: str, engine: FakeEngine) -> None:
    history = HISTORIES["Anthropic"]
    with Client(base_url=url) as client:
        client.refine([BEFORE, *history.messages, AFTER])
    assert read(engine) == expected(history)


class City(BaseModel):
    city: str


@pytest.fixture
def parsed() -> Iterator[openai.OpenAI]:
    """The SDK, against a model that writes JSON."""
    with running(create_app(Settings(), FakeEngine(lambda turns: '{"city": "Rome"}').open)) as base:
        with openai.OpenAI(base_url=f"{base}/v1", api_key="none", max_retries=0) as client:
            yield client


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")  # the SDK's, of `parsed`
def test_what_the_sdk_parsed_is_read_like_any_answer(
    parsed: openai.OpenAI, url: str, sdk: openai.OpenAI, engine: FakeEngine
) -> None:
    wanted = 'What is it?\n\n{"city": "Rome"}\n\nAnd now?'
    message: Any = (
        parsed.chat.completions.parse(model="fake", messages=[BEFORE], response_format=City).choices[0].message
    )
    output: Any = parsed.responses.parse(model="fake", input="What is it?", text_format=City).output
    sdk.chat.completions.create(model="fake", messages=[BEFORE, message, AFTER])
    assert read(engine) == wanted
    sdk.responses.create(model="fake", input=[BEFORE, *output, AFTER])
    assert read(engine) == wanted
    with Client(base_url=url) as client:
        client.refine([BEFORE, message, AFTER])
    assert read(engine) == wanted


def test_a_message_is_written_as_it_was_read() -> None:
    for history in HISTORIES.values():
        request = RefineRequest.model_validate({"messages": [BEFORE, *history.messages, AFTER]})
        assert json.loads(request.model_dump_json(exclude_unset=True))["messages"] == [BEFORE, *history.messages, AFTER]
