"""A real OpenAI-compatible server as upstream: ours, with the built-in model, before a gateway with a fake Follower."""

import json
from typing import Any

import httpx2
import openai
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.engine.conftest import LiveServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ASK: list[Any] = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture
def gateway(serve: Serve, live: LiveServer) -> str:
    upstream = {"base_url": f"{live.url}/v1", "model": "smollm2-135m-slhf", "max_retries": 0}
    return serve(FakeEngine(), upstreams={"live": upstream}, models={"assistant": {"leader": "live"}})


def ask(url: str, **body: Any) -> dict[str, Any]:
    answer = httpx2.post(f"{url}/v1/chat/completions", json={"messages": ASK, "temperature": 0, **body}, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_its_draft_is_refined_and_its_tokens_are_counted(gateway: str, live: LiveServer) -> None:
    answer = ask(gateway, max_tokens=24, refine={"return_rounds": True})
    direct = ask(live.url, max_tokens=24, refine={"rounds": 1})
    report = answer["refinement"]
    assert report["rounds"][0]["text"] == direct["choices"][0]["message"]["content"]
    assert answer["choices"][0]["message"]["content"] == f"better {report['rounds'][0]['text']}"
    assert report["usage"]["draft"]["total_tokens"] == direct["usage"]["total_tokens"]


def test_its_stream_passes_through_where_nothing_is_refined(gateway: str) -> None:
    with openai.OpenAI(base_url=f"{gateway}/v1", api_key="none") as sdk:
        options: dict[str, Any] = {"stream": True, "max_tokens": 40, "extra_body": {"refine": {"rounds": 0}}}
        story: list[Any] = [{"role": "user", "content": "Tell a long story."}]
        chunks = list(sdk.chat.completions.create(model="assistant", messages=story, **options))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 3


def test_structure_log_probabilities_and_seeds_pass_through(gateway: str) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"]}
    structured = {"type": "json_schema", "json_schema": {"name": "answer", "schema": schema}}
    choice = ask(gateway, response_format=structured, max_tokens=40, refine={"rounds": 0})["choices"][0]
    assert "city" in json.loads(choice["message"]["content"])
    wishes = {"logprobs": True, "top_logprobs": 2, "temperature": 1.0, "seed": 5, "max_tokens": 8}
    choices = [ask(gateway, refine={"rounds": 0}, **wishes)["choices"][0] for _ in range(2)]
    assert choices[0]["message"] == choices[1]["message"]
    assert all(len(one["top_logprobs"]) == 2 for one in choices[0]["logprobs"]["content"])


def test_what_it_refuses_is_a_400_without_its_words(gateway: str) -> None:
    long = [{"role": "user", "content": "word " * 9000}]
    answer = httpx2.post(f"{gateway}/v1/chat/completions", json={"messages": long}, timeout=60)
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
