"""Tokens counted and shown: Anthropic's `count_tokens` by its SDK, and vLLM's `/tokenize` and `/detokenize`."""

from typing import Any

import anthropic
import httpx2
import pytest

from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import ServedModel
from tests.conftest import Serve
from tests.contract.test_anthropic_sdk import ASK, SMALL, connect
from tests.contract.test_upstream_leader import GOOD, settings
from tests.server.models.upstream.faulty import upstream

LONG = [{"role": "user", "content": "a " * 5000}]
WEATHER: Any = {"name": "weather", "input_schema": {"type": "object"}}


def post(url: str, path: str, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/{path}", json=body)


def refused(answer: httpx2.Response) -> tuple[int, str | None, str | None]:
    error = answer.json()["error"]
    return answer.status_code, error["param"], error["code"]


@pytest.mark.parametrize("system", [{}, {"system": "Be brief and kind."}])
def test_what_is_counted_is_what_the_leader_reads(serve: Serve, system: dict[str, Any]) -> None:
    with connect(serve()) as sdk:
        counted = sdk.messages.count_tokens(model="fake", messages=ASK, **system)
        answer = sdk.messages.create(**SMALL, **system, extra_body={"refine": {"rounds": 0}})
    assert counted.input_tokens == answer.usage.input_tokens + (answer.usage.cache_read_input_tokens or 0)
    assert counted.input_tokens == 3 + (4 if system else 0)


def test_counting_asks_no_model(serve: Serve) -> None:
    engine = FakeEngine()
    with connect(serve(engine)) as sdk:
        sdk.messages.count_tokens(model="fake", messages=ASK)
        sdk.beta.messages.count_tokens(model="fake", messages=[{"role": "user", "content": "x"}])
    assert engine.leader.calls == engine.follower.calls == []


@pytest.mark.parametrize(
    ("change", "exception", "kind", "param"),
    [
        ({"model": "claude-9"}, anthropic.NotFoundError, "not_found_error", "model"),
        ({"messages": []}, anthropic.BadRequestError, "invalid_request_error", "messages"),
        ({"messages": [*ASK, {"role": "assistant", "content": "x"}]}, anthropic.BadRequestError, None, "messages"),
        ({"tools": [WEATHER, WEATHER]}, anthropic.BadRequestError, None, "tools.1.name"),
        ({"extra_body": {"max_tokens": 5}}, anthropic.BadRequestError, None, "max_tokens"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image", "source": {"type": "url", "url": "u"}}]}]},
            anthropic.BadRequestError,
            None,
            "messages.0.content.0.type",
        ),
    ],
)
def test_what_cannot_be_counted_is_refused_as_messages_are(
    serve: Serve, change: dict[str, Any], exception: type[anthropic.APIStatusError], kind: str | None, param: str
) -> None:
    with connect(serve()) as sdk, pytest.raises(exception) as caught:
        sdk.messages.count_tokens(**{"model": "fake", "messages": ASK} | change)
    assert caught.value.type == (kind or "invalid_request_error")
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["details"]["param"] == param


def test_counting_takes_what_is_no_part_of_a_prompt(serve: Serve) -> None:
    with connect(serve()) as sdk:
        counted = sdk.messages.count_tokens(
            model="fake",
            messages=ASK,
            tools=[WEATHER],
            tool_choice={"type": "none"},
            thinking={"type": "adaptive"},
            output_config={"effort": "low"},
            cache_control={"type": "ephemeral"},
        )
    assert counted.input_tokens == 3


def test_a_conversation_beyond_the_context_is_counted_too(serve: Serve) -> None:
    messages: list[Any] = [{"role": "user", "content": "x " * 60}, {"role": "user", "content": "y " * 60}]
    with connect(serve(FakeEngine(max_model_len=100))) as sdk:
        assert sdk.messages.count_tokens(model="fake", messages=messages).input_tokens == 120


def test_a_prompt_is_shown_as_tokens_and_read_back(serve: Serve) -> None:
    url = serve()
    shown = post(url, "tokenize", prompt="what is it").json()
    assert shown == {"count": 4, "max_model_len": 4096, "tokens": [0, 1, 2, 3], "token_strs": None}
    assert post(url, "detokenize", tokens=shown["tokens"][1:]).json() == {"prompt": "what is it"}


def test_a_prompt_has_the_tokenizers_own_tokens_unless_told_otherwise(serve: Serve) -> None:
    url = serve()
    assert post(url, "tokenize", prompt="a b", add_special_tokens=False, model="fake").json()["tokens"] == [1, 2]
    spelled = post(url, "tokenize", prompt="a b", return_token_strs=True).json()["token_strs"]
    assert spelled == ["<s>", "a", " b"]


def test_messages_are_shown_without_them_unless_told_otherwise(serve: Serve) -> None:
    url = serve()
    messages = [{"role": "user", "content": "a b"}, {"role": "assistant", "content": "c"}]
    assert post(url, "tokenize", messages=messages).json()["count"] == 3
    assert post(url, "tokenize", messages=messages, add_special_tokens=True).json()["count"] == 4
    assert post(url, "tokenize", messages=messages, add_generation_prompt=False).json()["count"] == 3


@pytest.mark.parametrize(
    ("path", "body", "status", "param", "code"),
    [
        ("tokenize", {"prompt": "a", "model": "other"}, 404, "model", "model_not_found"),
        ("detokenize", {"tokens": [1], "model": "other"}, 404, "model", "model_not_found"),
        ("tokenize", {"prompt": "a", "messages": []}, 400, None, None),
        ("tokenize", {}, 400, None, None),
        ("tokenize", {"messages": []}, 400, "messages", None),
        ("tokenize", {"messages": [{"role": "user"}]}, 400, "messages.0", None),
        ("tokenize", {"prompt": 5}, 400, "prompt", None),
        ("tokenize", {"prompt": "a", "surprise": 1}, 400, "surprise", None),
        ("tokenize", {"prompt": "a", "chat_template": "x"}, 400, "chat_template", None),
        ("tokenize", {"prompt": "a " * 5000}, 400, "prompt", "context_length_exceeded"),
        (
            "tokenize",
            {"messages": [{"role": "user", "content": "a " * 5000}]},
            400,
            "messages",
            "context_length_exceeded",
        ),
        (
            "tokenize",
            {"messages": [{"role": "user", "content": "a " * 3000}] * 2},
            400,
            "messages",
            "context_length_exceeded",
        ),
        ("detokenize", {}, 400, "tokens", None),
        ("detokenize", {"tokens": [-1]}, 400, "tokens.0", None),
        ("detokenize", {"tokens": [0, 2**31]}, 400, "tokens.1", None),
        ("detokenize", {"tokens": [0, 2**30]}, 400, "tokens.1", None),
        ("detokenize", {"tokens": [0], "surprise": 1}, 400, "surprise", None),
    ],
)
def test_what_has_no_tokens_is_refused_by_name(
    serve: Serve, path: str, body: dict[str, Any], status: int, param: str | None, code: str | None
) -> None:
    assert refused(post(serve(), path, **body)) == (status, param, code)


@pytest.mark.parametrize(
    "more",
    [
        {"tools": [], "chat_template": None, "chat_template_kwargs": {}, "continue_final_message": False},
        {"media_io_kwargs": None, "mm_processor_kwargs": {}, "return_token_strs": None, "model": None},
    ],
)
def test_what_asks_for_nothing_is_accepted(serve: Serve, more: dict[str, Any]) -> None:
    answer = post(serve(), "tokenize", messages=[{"role": "user", "content": "a"}], **more)
    assert answer.status_code == 200, answer.text


def test_a_long_list_of_tokens_is_read_back(serve: Serve) -> None:
    url = serve()
    post(url, "tokenize", prompt="a")
    answer = post(url, "detokenize", tokens=[1] * 20_000)
    assert answer.json() == {"prompt": "a" * 20_000}


@pytest.mark.parametrize("path", ["tokenize", "detokenize", "v1/messages/count_tokens"])
def test_a_model_whose_leader_is_on_another_server_has_no_tokenizer_here(serve: Serve, path: str) -> None:
    bodies: dict[str, Any] = {"tokenize": {"prompt": "a"}, "detokenize": {"tokens": [0]}}
    body: dict[str, Any] = bodies.get(path, {"messages": ASK})
    with upstream(GOOD) as cloud:
        url = serve(**settings(cloud))
        answer = post(url, path, **body)
    assert answer.status_code == 400
    assert "another server" in answer.json()["error"]["message"]


def test_a_model_without_leader_has_the_followers(serve: Serve) -> None:
    url = serve(models={"refiner": ServedModel(leader="none")})
    assert post(url, "tokenize", prompt="a").json()["count"] == 2


@pytest.mark.parametrize("path", ["tokenize", "detokenize"])
def test_tokens_need_a_key_too(serve: Serve, path: str) -> None:
    assert post(serve(api_keys="me=right"), path, prompt="a").status_code == 401
