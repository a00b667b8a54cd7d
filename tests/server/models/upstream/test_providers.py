"""Each provider's dialect, on a real socket, through the whole application: the draft arrives as it was meant."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve
from tests.server.models.upstream.providers import PROVIDERS, USAGE, Canned, Provider, served, takes_everything

ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture(params=PROVIDERS, ids=str)
def provider(request: pytest.FixtureRequest) -> Provider:
    found: Provider = request.param
    return found


@pytest.fixture
def canned(provider: Provider) -> Iterator[Canned]:
    with served(provider) as upstream:
        yield upstream


@pytest.fixture
def url(serve: Serve, provider: Provider, canned: Canned) -> str:
    upstream = {"base_url": canned.url, "model": "big", "max_retries": 0} | dict(provider.settings)
    return serve(FakeEngine(), upstreams={"cloud": upstream}, models={"assistant": {"leader": "cloud"}})


def post(url: str, path: str, **body: Any) -> httpx2.Response:
    answer = httpx2.post(f"{url}/v1/{path}", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    assert "SECRET" not in answer.text
    return answer


def events(answer: httpx2.Response) -> list[Any]:
    lines = (line.removeprefix("data: ") for line in answer.text.splitlines() if line.startswith("data: "))
    return [json.loads(line) for line in lines if line != "[DONE]"]


def chat(url: str) -> tuple[str, Any]:
    answer = post(url, "chat/completions", messages=ASK, refine={"rounds": 0}, max_tokens=50).json()
    return answer["choices"][0]["message"]["content"], answer["usage"]


def chat_stream(url: str) -> tuple[str, Any]:
    body = {"messages": ASK, "refine": {"rounds": 0}, "stream": True, "stream_options": {"include_usage": True}}
    chunks = events(post(url, "chat/completions", **body, max_tokens=50))
    pieces = (chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks if chunk["choices"])
    return "".join(pieces), chunks[-1]["usage"]


def refined(url: str) -> tuple[str, Any]:
    answer = post(url, "refine", prompt="hi", max_tokens=50).json()
    return answer["output"].removeprefix("better "), answer["refinement"]["usage"]["draft"]


def refined_stream(url: str) -> tuple[str, Any]:
    last = events(post(url, "refine", prompt="hi", stream=True, max_tokens=50))[-1]
    return last["output"].removeprefix("better "), last["refinement"]["usage"]["draft"]


WAYS = [chat, chat_stream, refined, refined_stream]


def test_the_draft_and_its_usage_arrive_in_every_way(url: str) -> None:
    for way in WAYS:
        text, usage = way(url)
        assert text == "Hello there"
        counts = (usage["prompt_tokens"], usage["completion_tokens"])
        assert counts == (USAGE["prompt_tokens"], USAGE["completion_tokens"])


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("provider", [one for one in PROVIDERS if one.refuse is not takes_everything], ids=str)
def test_what_it_refuses_is_found_out_once(
    way: Callable[[str], tuple[str, Any]], url: str, canned: Canned, provider: Provider
) -> None:
    for _ in range(3):
        way(url)
    refused = [body for body in canned.asked if provider.refuse(body) is not None]
    assert len(refused) <= 1
    assert len(canned.asked) == 3 + len(refused)
    assert all("max_tokens" in body or "max_completion_tokens" in body for body in canned.asked)
