"""Anthropic's messages and vLLM's tokens on the real engine, by the official SDK and by transformers' own ids."""

import asyncio
from typing import Any

import anthropic
import httpx2
import pytest
from anthropic.types import MessageParam, TextBlock, ThinkingBlock
from transformers import AutoTokenizer
from vllm.entrypoints.serve.tokenize.protocol import DetokenizeResponse, TokenizeResponse

from slhf_server.builtin.catalogue import NAME, built_in
from slhf_server.settings.server import Settings
from tests.engine.conftest import LiveServer

pytestmark = [pytest.mark.engine, pytest.mark.timeout(600)]

ASK: list[MessageParam] = [{"role": "user", "content": "Say the word: yes"}]
COLD: dict[str, Any] = {"temperature": 0}
TEXTS = ["", "Hello you", " spaces  and\n\nlines ", "<|im_start|>user", "größer 😀", "x" * 300]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(built_in(f"builtin:{NAME}", Settings()))


@pytest.fixture
def model(live: LiveServer) -> str:
    name: str = httpx2.get(f"{live.url}/v1/models").json()["data"][0]["id"]
    return name


def connect(live: LiveServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=live.url, api_key="none", max_retries=0, timeout=300)


def chat(live: LiveServer, **refine: Any) -> Any:
    body = {"messages": ASK, "max_tokens": 24, "refine": refine, **COLD}
    return httpx2.post(f"{live.url}/v1/chat/completions", json=body, timeout=300).json()


def test_a_message_says_what_a_chat_says(live: LiveServer, model: str) -> None:
    options = COLD | {"refine": {"rounds": 1, "show_rounds": True, "return_rounds": True}}
    with connect(live) as sdk:
        whole = sdk.messages.create(model=model, max_tokens=24, messages=ASK, system="", extra_body=options)
        plain = sdk.messages.create(model=model, max_tokens=24, messages=ASK, extra_body=options)
        with sdk.messages.stream(model=model, max_tokens=24, messages=ASK, extra_body=options) as stream:
            streamed = stream.get_final_message()
    told = chat(live, rounds=1, return_rounds=True)
    for message in (plain, streamed):
        thought, said = message.content
        assert isinstance(thought, ThinkingBlock)
        assert isinstance(said, TextBlock)
        assert [thought.thinking, said.text] == [one["text"] for one in told["refinement"]["rounds"]]
        usage = message.usage
        assert usage.input_tokens + (usage.cache_read_input_tokens or 0) == told["usage"]["prompt_tokens"]
        assert usage.output_tokens == told["usage"]["completion_tokens"]
    assert whole.stop_reason in ("end_turn", "max_tokens")


def test_a_stop_sequence_that_ended_the_answer_is_named(live: LiveServer, model: str) -> None:
    ask: dict[str, Any] = {"model": model, "max_tokens": 24, "messages": ASK}
    extra_body = COLD | {"refine": {"rounds": 0}}
    with connect(live) as sdk:
        (said,) = sdk.messages.create(**ask, extra_body=extra_body).content
        assert isinstance(said, TextBlock)
        stop = said.text[1]
        answer = sdk.messages.create(**ask, extra_body=extra_body, stop_sequences=[stop])
    assert (answer.stop_reason, answer.stop_sequence) == ("stop_sequence", stop)


def test_the_async_client_is_answered_too(live: LiveServer, model: str) -> None:
    async def ask() -> str:
        async with anthropic.AsyncAnthropic(base_url=live.url, api_key="none", timeout=300) as sdk:
            async with sdk.messages.stream(model=model, max_tokens=8, messages=ASK, extra_body=COLD) as stream:
                return "".join([text async for text in stream.text_stream])

    assert asyncio.run(ask())


@pytest.mark.parametrize("system", [{}, {"system": "Be brief."}])
def test_what_is_counted_is_what_the_engine_reads(live: LiveServer, model: str, system: dict[str, Any]) -> None:
    with connect(live) as sdk:
        counted = sdk.messages.count_tokens(model=model, messages=ASK, **system)
        options = {"refine": {"rounds": 0}}
        usage = sdk.messages.create(model=model, max_tokens=2, messages=ASK, extra_body=options, **system).usage
    assert counted.input_tokens == usage.input_tokens + (usage.cache_read_input_tokens or 0)


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("text", TEXTS)
def test_a_prompts_tokens_are_those_of_transformers(live: LiveServer, tokenizer: Any, text: str, special: bool) -> None:
    body = {"prompt": text, "add_special_tokens": special, "return_token_strs": True}
    shown = TokenizeResponse.model_validate(httpx2.post(f"{live.url}/tokenize", json=body).json())
    assert shown.tokens == tokenizer(text, add_special_tokens=special)["input_ids"]
    assert shown.token_strs == tokenizer.convert_ids_to_tokens(shown.tokens)
    assert shown.count == len(shown.tokens)
    answer = httpx2.post(f"{live.url}/detokenize", json={"tokens": shown.tokens}).json()
    assert DetokenizeResponse.model_validate(answer).prompt == tokenizer.decode(shown.tokens)


@pytest.mark.parametrize("prompted", [True, False])
@pytest.mark.parametrize("roles", [["user"], ["system", "user"], ["user", "assistant"], ["user", "assistant", "user"]])
def test_messages_tokens_are_those_of_the_chat_template(
    live: LiveServer, tokenizer: Any, roles: list[str], prompted: bool
) -> None:
    messages = [{"role": role, "content": f"I am the {role}."} for role in roles]
    body = {"messages": messages, "add_generation_prompt": prompted}
    shown = TokenizeResponse.model_validate(httpx2.post(f"{live.url}/tokenize", json=body).json())
    expected = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=prompted, return_dict=False)
    assert shown.tokens == list(expected)


def test_control_tokens_in_a_message_stay_text(live: LiveServer, tokenizer: Any) -> None:
    """As in the prompts of rounds; vLLM would read them as structure."""
    body = {"messages": [{"role": "user", "content": "<|im_end|>"}]}
    shown = httpx2.post(f"{live.url}/tokenize", json=body).json()
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    calm = httpx2.post(f"{live.url}/tokenize", json={"messages": [{"role": "user", "content": "x"}]}).json()
    assert shown["tokens"].count(end) == calm["tokens"].count(end)
