"""Where a remote engine fails, breaks off or says what cannot be, and where nobody waits for it any more."""

from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from slhf_server.deadline import Deadline
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.errors import (
    BadRequest,
    ContextLengthExceeded,
    DeadlineExceeded,
    RequestError,
    UpstreamFailed,
    UpstreamUnavailable,
)
from slhf_server.models.base import Chunk, SamplingParams
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.models.structured_output.workers import Workers
from tests.server.conftest import Play
from tests.server.engine.vllm_stub import (
    ASK,
    always,
    events,
    piece,
    staged,
    writes,
)
from tests.server.models.upstream.faulty import breaks_off, error, raw, reset, silent, streams


@pytest.mark.parametrize(
    "fault",
    [
        reset(),
        breaks_off(),
        streams(done=False),
        streams({"error": {"message": "SECRET", "code": 500}}),
        streams(piece("", [], finish_reason="abort")),
        error(500),
        error(503),
        error(429),
    ],
    ids=["reset", "cut", "empty", "error", "abort", "500", "503", "429"],
)
def test_a_server_that_dies_before_the_first_token_is_asked_again(
    play: Play, encoder: PromptEncoder, fault: Any
) -> None:
    async def scenario() -> None:
        async with staged(encoder, always(fault), writes(encoder, "4")) as stage:
            assert "".join(chunk.text for chunk in await stage.ask()) == "4"
            assert len(stage.slept) == 1
            assert len(stage.servers[0].asked) == 2

    play(scenario())


async def read(stream: AsyncGenerator[Chunk, None], seen: list[str]) -> None:
    async with aclosing(stream) as chunks:
        async for chunk in chunks:
            seen.append(chunk.text)


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (lambda begun: reset(*begun), 502),
        (lambda begun: breaks_off(*begun), 502),
        (lambda begun: streams(*begun, done=False), 502),
        (lambda begun: streams(*begun, {"error": {"message": "SECRET", "code": 500}}), 503),
        (lambda begun: streams(*begun, piece("", [], finish_reason="abort")), 503),
    ],
    ids=["reset", "cut", "ended", "error", "abort"],
)
def test_one_that_dies_in_the_middle_is_not(play: Play, encoder: PromptEncoder, fault: Any, status: int) -> None:
    async def scenario() -> None:
        begun = events(encoder, encoder.encode(ASK), "It is", end=False)
        async with staged(encoder, always(fault(begun))) as stage:
            seen: list[str] = []
            stream = stage.engine.follower.stream(ASK, SamplingParams(), request_id="r-1")
            with pytest.raises(RequestError) as failed:
                await read(stream, seen)
            assert (seen, failed.value.status) == (["It is"], status)
            assert "SECRET" not in failed.value.message
            assert "'gpu'" in failed.value.message
            assert len(stage.servers[0].asked) == 1

    play(scenario())


def test_retry_after_is_obeyed_and_told_where_it_is_too_long(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        busy = error(429, Retry_After="3")
        async with staged(encoder, always(busy), writes(encoder, "4")) as stage:
            await stage.ask()
            assert 3.0 <= stage.slept[0] <= 3.5
        async with staged(encoder, always(error(503, Retry_After="90"))) as stage:
            with pytest.raises(UpstreamUnavailable) as failed:
                await stage.ask()
            assert (failed.value.retry_after, stage.slept) == (90, [])

    play(scenario())


def test_after_failures_in_a_row_it_is_left_alone(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        async with staged(encoder, always(error(500)), breaker_failures=2, max_retries=0) as stage:
            for _ in range(3):
                with pytest.raises(UpstreamUnavailable):
                    await stage.ask()
            assert len(stage.servers[0].asked) == 2
            assert stage.count("slhf_upstream_breaker_open") == 1
            assert stage.count("slhf_upstream_errors_total", error_type="breaker_open") == 1

    play(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        lambda ids: streams(piece("It", [7], prompt_token_ids=ids[:-1]), piece("", [2], finish_reason="stop")),
        lambda ids: streams({"choices": [{"index": 0, "text": "It"}]}),
        lambda ids: streams(piece("It", [-1])),
        lambda ids: streams(piece("It", [2**40])),
        lambda ids: streams({"choices": [{"index": 0, "text": "It", "token_ids": ["7"]}]}),
        lambda ids: streams("no JSON"),
        lambda ids: raw(b"{}"),
    ],
    ids=["another prompt", "no ids", "negative", "huge", "text", "no json", "no choices"],
)
def test_ids_that_cannot_be_are_an_answer_that_cannot_be_used(play: Play, encoder: PromptEncoder, answer: Any) -> None:
    async def scenario() -> None:
        async with staged(encoder, always(answer(encoder.encode(ASK)))) as stage:
            with pytest.raises(RequestError) as failed:
                await stage.ask()
            assert failed.value.status == 502

    play(scenario())


def test_ids_that_do_not_spell_the_text_are_not_used_for_it(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        ids = encoder.encode_text("It is 4. ")
        reply = streams(piece("It is 4.", ids), piece("", [2], finish_reason="stop"))
        async with staged(encoder, always(reply)) as stage:
            assert (await stage.ask())[-1].token_ids is None

    play(scenario())


@pytest.mark.parametrize(
    ("said", "param", "kind"),
    [
        ("min_p must be in [0, 1]", "min_p", BadRequest),
        ("structured_outputs: no such grammar", "response_format", BadRequest),
        ("This model's maximum context length is 512 tokens", "messages", ContextLengthExceeded),
    ],
)
def test_what_the_server_refuses_is_the_clients_error_where_the_client_asked_for_it(
    play: Play, encoder: PromptEncoder, said: str, param: str | None, kind: type[RequestError]
) -> None:
    async def scenario() -> None:
        schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "integer"}}}
        structure = structured_output_of(schema, Workers(grammars=False))
        async with staged(encoder, always(error(400, message=said))) as stage:
            with pytest.raises(kind) as failed:
                await stage.ask(sampling=SamplingParams(min_p=0.5, structure=structure))
            assert failed.value.param == param
            assert len(stage.servers[0].asked) == 1

    play(scenario())


def test_a_priority_that_the_server_does_not_take_is_the_clients_error_and_opens_no_breaker(
    play: Play, encoder: PromptEncoder
) -> None:
    async def scenario() -> None:
        said = error(400, message="priority: not supported without --scheduling-policy priority")
        async with staged(encoder, always(said), breaker_failures=1) as stage:
            for _ in range(3):
                with pytest.raises(BadRequest) as failed:
                    await stage.ask(sampling=SamplingParams(priority=5))
                assert failed.value.param == "priority"
            assert stage.count("slhf_upstream_breaker_open") == 0

    play(scenario())


def test_closing_a_completion_closes_its_connection(play: Play, encoder: PromptEncoder) -> None:
    """By which vLLM aborts it."""

    async def scenario() -> None:
        begun = events(encoder, encoder.encode(ASK), "It is", end=False)
        async with staged(encoder, always(silent(*begun))) as stage:
            stream = stage.engine.follower.stream(ASK, SamplingParams(), request_id="r-1")
            assert (await anext(stream)).text == "It is"
            await stream.aclose()
            await stage.servers[0].until_connections(0)
            assert stage.count("slhf_upstream_breaker_open") == 0

    play(scenario())


def test_a_deadline_closes_it_too_and_silence_counts_against_the_server(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        async with staged(encoder, always(silent()), breaker_failures=1) as stage:
            chunks = Deadline.after(0.05).within(stage.engine.follower.stream(ASK, SamplingParams(), request_id="r-1"))
            with pytest.raises(DeadlineExceeded):
                async for _ in chunks:
                    pass
            await stage.servers[0].until_connections(0)
            assert stage.count("slhf_upstream_errors_total", error_type="timeout") == 1

    play(scenario())


def test_an_answer_that_breaks_off_after_its_end_is_whole(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        whole = events(encoder, encoder.encode(ASK), "It is 4.")
        async with staged(encoder, always(breaks_off(*whole))) as stage:
            assert (await stage.ask())[-1].finish_reason == "stop"

    play(scenario())


def test_the_servers_failure_says_nothing_of_what_it_said(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        async with staged(encoder, always(error(404, message="SECRET"))) as stage:
            with pytest.raises((UpstreamUnavailable, UpstreamFailed)) as failed:
                await stage.ask()
            assert failed.value.message == "the engine 'gpu' does not serve this server"

    play(scenario())
