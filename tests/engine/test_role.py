"""A role's way to vLLM and back where something goes wrong: long prompts, and what the log says of failures."""

import asyncio
import json
import logging
import threading
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import AutoTokenizer
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.exceptions import EngineGenerateError

from slhf_server.engine.parsing import OutputParsers
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.engine.role import VLLMRole
from slhf_server.engine.sampling import engine_params
from slhf_server.errors import BadRequest, ContextLengthExceeded, EngineFailed
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.models.structured_output.workers import Workers

CONTEXT = 512


class Broken:
    """vLLM's engine, as far as a role knows it, which fails on every request."""

    model_config = SimpleNamespace(max_model_len=CONTEXT)

    def __init__(self, cause: Exception | None) -> None:
        self.cause = cause
        self.asked = 0

    async def generate(self, *_: Any, **__: Any) -> AsyncGenerator[Any, None]:
        self.asked += 1
        raise EngineGenerateError from self.cause
        yield


@pytest.fixture(scope="module")
def encoder(builtin: Any) -> PromptEncoder:
    return PromptEncoder(AutoTokenizer.from_pretrained(builtin))


def ask(encoder: PromptEncoder, engine: Broken, *turns: Turn) -> None:
    async def play() -> None:
        role = VLLMRole("m", engine, encoder, {}, None, OutputParsers(encoder.tokenizer))
        async for _ in role.stream(turns, SamplingParams(max_tokens=1), request_id="r-17"):
            pass

    asyncio.run(play())


@pytest.mark.parametrize("cause", [RuntimeError("out of blocks"), KeyError("k"), None])
def test_why_the_engine_failed_stands_in_the_log_with_the_requests_id(
    encoder: PromptEncoder, caplog: pytest.LogCaptureFixture, cause: Exception | None
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(EngineFailed) as failed:
        ask(encoder, Broken(cause), Turn("user", "a"))
    [record] = caplog.records
    assert "r-17" in record.getMessage()
    assert f"{type(cause or EngineGenerateError()).__name__}: {cause or ''}" in record.getMessage()
    assert "blocks" not in failed.value.message  # which the client does not get to see


@pytest.mark.parametrize("cause", [OverflowError("int too big to convert"), ValueError("no"), TypeError("no")])
def test_a_value_that_cannot_reach_the_engine_is_the_clients_error(encoder: PromptEncoder, cause: Exception) -> None:
    with pytest.raises(BadRequest):
        ask(encoder, Broken(cause), Turn("user", "a"))


@pytest.mark.parametrize(
    "turns",
    [
        [Turn("user", "a" * 1_000_000)],  # over what any 512 tokens could say: not encoded at all
        [Turn("user", "word " * 2_000)],
        [Turn("user", "🎉" * 4_000)],
        [Turn("user", "a"), Turn("assistant", "b")] * 100 + [Turn("user", "c")],
    ],
    ids=["a million", "words", "emoji", "turns"],
)
def test_a_prompt_that_does_not_fit_is_told_both_lengths(encoder: PromptEncoder, turns: list[Turn]) -> None:
    engine = Broken(None)
    with pytest.raises(ContextLengthExceeded) as refused:
        ask(encoder, engine, *turns)
    assert str(CONTEXT) in refused.value.message
    assert engine.asked == 0


@pytest.mark.parametrize("text", ["\n" * 300_000, "word " * 4_000])
def test_a_prompt_that_is_not_small_is_encoded_in_another_thread(encoder: PromptEncoder, text: str) -> None:
    """Blanks too: not every template trims them."""
    readers: list[int] = []

    class Watched(PromptEncoder):
        def encode(self, *args: Any, **options: Any) -> list[int]:
            readers.append(threading.get_ident())
            return super().encode(*args, **options)

    watched = Watched(encoder._tokenizer)
    with pytest.raises((ContextLengthExceeded, EngineFailed)):
        ask(watched, Broken(None), Turn("user", text))
    with pytest.raises(EngineFailed):
        ask(watched, Broken(None), Turn("user", "a"))
    assert [reader == threading.get_ident() for reader in readers] == [False, True]


def test_a_grammar_that_another_process_has_tried_is_not_compiled_on_the_event_loop() -> None:
    """vLLM would, for 24 seconds: here it would at least find out that there is no such grammar."""
    schema = {"type": "array", "uniqueItems": True, "maxItems": 2**70}
    structure = structured_output_of({"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}, Workers())
    params = engine_params(SamplingParams(structure=structure), {}, 10, RequestOutputKind.DELTA)
    params._validate_structured_outputs(None, SimpleNamespace(backend="guidance"), None)
    asked = params.clone().structured_outputs
    assert (json.loads(asked.json), asked._backend) == (schema, "guidance")  # text: msgpack has no such integers


def test_no_text_has_fewer_tokens_than_the_bound_says(encoder: PromptEncoder) -> None:
    widest = encoder.most_characters_per_token
    for text in (" " * 5_000, "\n" * 5_000, "=" * 5_000, "internationalization " * 300, "字" * 1_000):
        assert len(encoder.encode([Turn("user", text)])) * widest >= len(text)
