"""What the client wrote and what a provider answers, through the whole application: nothing is lost on the way."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.server.models.upstream.faulty import HELLO, USAGE, Faulty, Reply, pieces, says, streams, upstream

ASK = {"role": "user", "content": "what is it"}
CALL = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "sun"}
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}]
GOOD = says({**HELLO, "usage": USAGE})
Post = Callable[..., httpx2.Response]


def settings(server: Faulty, **more: Any) -> dict[str, Any]:
    cloud = {"base_url": server.url, "model": "big", "max_retries": 0} | more
    return {"upstreams": {"cloud": cloud}, "models": {"assistant": {"leader": "cloud"}}}


def chat(url: str, *messages: Any, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json={"messages": [*messages] or [ASK], **body}, timeout=30)


def asked(server: Faulty) -> list[Any]:
    return [one.body for one in server.asked if "chat/completions" in one.line]


SIGNED = CALL | {"extra_content": {"google": {"thought_signature": "s"}}}
CACHED = {"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}


@pytest.mark.parametrize(
    "keys",
    [
        {"content": None},
        {},
        {"content": "", "reasoning_content": "r"},
        {"content": None, "reasoning_content": None, "refusal": None},
        {"content": "x", "reasoning_details": [{"data": "x"}], "mine": [None]},
        {"content": None, "tool_calls": [SIGNED]},
        {"content": [CACHED]},
    ],
)
def test_a_message_reaches_the_upstream_with_every_key_that_the_client_wrote(serve: Serve, keys: Any) -> None:
    said = {"role": "assistant", "tool_calls": [CALL]} | keys
    with upstream(GOOD) as cloud:
        answer = chat(serve(FakeEngine(), **settings(cloud)), ASK, said, RESULT, tools=TOOLS)
    assert answer.status_code == 200, answer.text
    assert asked(cloud)[0]["messages"] == [ASK, said, RESULT]


def test_a_clients_template_arguments_reach_the_upstream_beside_the_settings(serve: Serve) -> None:
    extra = {"chat_template_kwargs": {"enable_thinking": False}, "provider": {"sort": "price"}}
    with upstream(GOOD) as cloud:
        url = serve(FakeEngine(), **settings(cloud, extra_body=extra))
        answer = chat(url, chat_template_kwargs={"mine": 1})
    assert answer.status_code == 200, answer.text
    assert asked(cloud)[0]["chat_template_kwargs"] == {"mine": 1, "enable_thinking": False}
    assert asked(cloud)[0]["provider"] == {"sort": "price"}


THOUGHTS = {"role": "assistant", "reasoning_content": "SECRET hm", "reasoning": "SECRET hm"}
USED_UP = [
    {"choices": [{"message": THOUGHTS | {"content": content}, "finish_reason": "length"}], "usage": USAGE}
    for content in (None, "", " \n", [], [{"type": "thinking", "thinking": [{"type": "text", "text": "SECRET"}]}])
]
USED_UP_STREAMED = [{"choices": [{"delta": THOUGHTS, "finish_reason": None}]}, *pieces(finish_reason="length")]


@pytest.mark.parametrize("reply", [*map(says, USED_UP), streams(*USED_UP_STREAMED)])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("endpoint", ["chat/completions", "refine"])
def test_a_draft_of_thoughts_alone_is_no_draft(serve: Serve, reply: Reply, stream: bool, endpoint: str) -> None:
    """The budget went into thoughts: there is nothing to refine."""
    asks: dict[str, Any] = {"prompt": "what is it"}
    if endpoint == "chat/completions":
        asks = {"messages": [ASK]} | ({"stream_options": {"include_usage": True}} if stream else {})
    with upstream(GOOD, reply) as cloud:
        engine = FakeEngine()
        url = serve(engine, **settings(cloud))
        answer = httpx2.post(f"{url}/v1/{endpoint}", json=asks | {"stream": stream}, timeout=30)
    assert answer.status_code == 200, answer.text
    assert "SECRET" not in answer.text
    assert engine.follower.calls == []
    last = answer.json() if not stream else _last(answer.text)
    report = last.get("refinement") or last["choices"][0].get("refinement")
    assert (report["applied"], report["rounds_run"]) == (False, 0)
    assert '"finish_reason": "length"' in answer.text or '"finish_reason":"length"' in answer.text


SPOKEN = "SECRET hm</think>\n\nHello you"
UNOPENED = {"choices": [{"message": {"role": "assistant", "content": SPOKEN}, "finish_reason": "stop"}], "usage": USAGE}


@pytest.mark.parametrize("reply", [says(UNOPENED), streams(*pieces("SECRET hm</", "think>\n\nHello", " you"))])
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("rounds", [0, 1])
def test_thoughts_whose_beginning_stands_in_the_upstreams_prompt_reach_nobody(
    serve: Serve, reply: Reply, stream: bool, rounds: int
) -> None:
    """DeepSeek-R1 and its kin, behind a server that has no reasoning parser."""
    with upstream(GOOD, reply) as cloud:
        engine = FakeEngine()
        url = serve(engine, **settings(cloud, opens_thought=True))
        answer = chat(url, stream=stream, refine={"rounds": rounds})
    assert answer.status_code == 200, answer.text
    assert "SECRET" not in answer.text
    assert [call[0][-2].text for call in engine.follower.calls] == ["Hello you"] * rounds


def test_an_upstream_of_which_nothing_is_said_may_speak_of_tags(serve: Serve) -> None:
    with upstream(GOOD, says(UNOPENED)) as cloud:
        answer = chat(serve(FakeEngine(), **settings(cloud)), refine={"rounds": 0})
    assert answer.json()["choices"][0]["message"]["content"] == SPOKEN


def _last(text: str) -> Any:
    """The last event that has a report."""
    events = [json.loads(line[6:]) for line in text.splitlines() if line.startswith("data: {")]
    return next(event for event in reversed(events) if "refinement" in event)
