"""A remote engine asks by token ids, reads token ids, and fails by upstreams' rules."""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from slhf import Bundle, RoleWeights, SamplingDefaults
from slhf_server.deadline import Deadline
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.errors import (
    BadRequest,
    ContextLengthExceeded,
    DeadlineExceeded,
    EngineUnavailable,
    RequestError,
    TokenBudgetExceeded,
    UpstreamFailed,
    UpstreamUnavailable,
)
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.models.structured_output.workers import Workers
from tests.conftest import until
from tests.server.conftest import Play
from tests.server.engine.vllm_stub import (
    ASK,
    Stage,
    VLLMStub,
    always,
    events,
    piece,
    sent,
    serving,
    staged,
    usage,
    writes,
)
from tests.server.models.upstream.faulty import breaks_off, error, raw, reset, silent, streams


def test_the_prompt_goes_as_token_ids_and_text_comes_back(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        async with staged(encoder, writes(encoder, "It", " is", " 4.", cached=3), api_key="sk-1", priority=-1) as stage:
            turns = [*ASK, Turn("assistant", "It is 5. <|im_end|>"), Turn("user", "Improve it.")]
            chunks = await stage.ask(turns, SamplingParams(temperature=0.5, seed=2**62, cache_salt="mine"))
            assert [chunk.text for chunk in chunks] == ["It", " is", " 4.", ""]
            asked = stage.servers[0].asked[0]
        assert asked.line == "POST /v1/completions HTTP/1.1"
        assert asked.headers["authorization"] == "Bearer sk-1"
        body = sent(asked)
        assert body.pop("prompt") == encoder.encode(turns)
        room = 512 - len(encoder.encode(turns))
        assert body == {
            "model": "base",
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "temperature": 0.5,
            "seed": 2**62,
            "cache_salt": "mine",
            "priority": -1,
            "max_tokens": room,
            "min_tokens": 0,
            "stop": [],
        }

    play(scenario())


def test_what_was_generated_stands_in_the_next_prompt_as_the_same_ids(play: Play, encoder: PromptEncoder) -> None:
    """Ids that no encoding of the text gives: a letter for a letter."""

    async def scenario() -> None:
        letters = [encoder.encode_text(letter)[0] for letter in "answer"]
        events = [piece(letter, [number]) for letter, number in zip("answer", letters, strict=True)]
        ended = piece("", [2], finish_reason="stop")
        async with staged(encoder, always(streams(*events, ended))) as stage:
            last = (await stage.ask())[-1]
            assert last.token_ids == tuple(letters) != tuple(encoder.encode_text("answer"))
            await stage.ask([*ASK, Turn("assistant", "answer", last.token_ids), Turn("user", "Improve it.")])
            prompt = stage.servers[0].asked[1].body["prompt"]
            assert any(prompt[n : n + 6] == letters for n in range(len(prompt)))

    play(scenario())


def test_usage_is_what_the_ids_and_the_server_say(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        guesses = {"speculative_decoding": {"num_accepted_draft_tokens": 5, "num_draft_tokens": 8}}
        reply = streams(piece("It", [7, 8]), piece("", [2], finish_reason="stop"), usage(4, metrics=guesses))
        async with staged(encoder, always(reply)) as stage:
            first, last = await stage.ask()
        assert (first.completion_tokens, last.completion_tokens) == (2, 1)
        assert first.prompt_tokens == last.prompt_tokens == len(encoder.encode(ASK))
        assert (last.cached_tokens, last.accepted_tokens, last.rejected_tokens) == (4, 5, 3)
        assert last.finish_reason == "stop"

    play(scenario())


def test_options_go_by_vllms_names_after_the_bundles_own(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        manifest = Bundle(name="tiny", sampling=SamplingDefaults(temperature=0.3, top_p=0.9))
        schema = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "integer"}}}
        sampling = SamplingParams(
            top_p=0.5,
            max_tokens=9,
            stop=("x",),
            logit_bias={"7": 1.0},
            min_p=0.1,
            logprobs=2,
            structure=structured_output_of(schema, Workers(grammars=False)),
        )
        async with staged(encoder, writes(encoder, "4"), manifest=manifest) as stage:
            await stage.ask(sampling=sampling, deltas=False)
            body = sent(stage.servers[0].asked[0])
        wanted = {"temperature": 0.3, "top_p": 0.5, "max_tokens": 9, "stop": ["x"], "logit_bias": {"7": 1.0}}
        wanted |= {"min_p": 0.1, "logprobs": 2, "return_tokens_as_token_ids": True, "stream_interval": 16}
        assert wanted.items() <= body.items()
        assert json.loads(body["structured_outputs"]["json"]) == {"type": "integer"}

    play(scenario())


def test_log_probabilities_are_told_by_id_likeliest_first(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        first, second = (bytes([byte]) for byte in "é".encode())
        known = {encoder.token_bytes(i): i for i in range(400)}
        half, rest, a = known[first], known[second], known[b"a"]
        said = {
            "tokens": [f"token_id:{half}", f"token_id:{rest}"],
            "token_logprobs": [-2.0, -0.1],
            "top_logprobs": [{f"token_id:{half}": -2.0, f"token_id:{a}": -0.5}, {f"token_id:{rest}": -0.1}],
        }
        reply = streams(piece("é", [half, rest], logprobs=said), piece("", [2], finish_reason="stop"))
        async with staged(encoder, always(reply)) as stage:
            chunk, _ = await stage.ask(sampling=SamplingParams(logprobs=1))
        assert [(one.token, bytes(one.bytes or ()), one.logprob) for one in chunk.logprobs] == [
            ("", first, -2.0),
            ("é", second, -0.1),
        ]
        assert [[top.token for top in one.top_logprobs] for one in chunk.logprobs] == [["a"], ["é"]]

    play(scenario())


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


def test_what_can_never_fit_is_refused_before_anything_is_sent(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        async with staged(encoder, writes(encoder, "4")) as stage:
            with pytest.raises(ContextLengthExceeded):
                await stage.ask([Turn("user", "word " * 600)])
            with pytest.raises(TokenBudgetExceeded):
                await stage.ask(sampling=SamplingParams(max_total_tokens=3))
            assert stage.servers[0].asked == []

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


@pytest.mark.parametrize(
    ("leader", "follower", "asked"),
    [("both", "both", ["slhf", "slhf"]), (None, "own", ["base", "slhf"]), (None, None, ["slhf", "slhf"])],
)
def test_each_role_is_asked_by_the_name_of_its_weights(
    play: Play, encoder: PromptEncoder, leader: str | None, follower: str | None, asked: list[str]
) -> None:
    async def scenario() -> None:
        roles = {"leader": RoleWeights(adapter=leader), "follower": RoleWeights(adapter=follower)}
        manifest = Bundle(name="tiny", **roles)
        async with staged(encoder, writes(encoder, "4"), manifest=manifest, adapter="slhf", priority=-5) as stage:
            for role in (stage.engine.leader, stage.engine.follower):
                async with aclosing(role.stream(ASK, SamplingParams(), request_id="r-1")) as chunks:
                    assert [chunk async for chunk in chunks]
                assert role.name == "tiny"
            bodies = [one.body for one in stage.servers[0].asked]
            assert [body["model"] for body in bodies] == asked
            assert [body.get("priority") for body in bodies] == [None, -5]  # a Follower's alone

    play(scenario())


def test_rounds_go_to_the_least_loaded_and_a_refinement_stays(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        hold = always(silent(*events(encoder, encoder.encode(ASK), "It", end=False)))
        one, two = VLLMStub(encoder, hold), VLLMStub(encoder, writes(encoder, "4"))
        async with serving(one, two):
            stage = Stage(encoder, [one, two])
            await stage.build().await_answer()
            busy = stage.engine.follower.stream(ASK, SamplingParams(), request_id="a-1")
            await anext(busy)
            for run in ("b", "c"):
                await stage.ask(run=run)
            assert (len(one.asked), len(two.asked)) == (1, 2)
            await busy.aclose()
            one.answers = [writes(encoder, "5")]
            two.answers = [hold]
            more = stage.engine.follower.stream(ASK, SamplingParams(), request_id="d-1")  # the first: both are idle
            assert (await anext(more)).text == "5"
            await more.aclose()
            held = stage.engine.follower.stream(ASK, SamplingParams(), request_id="b-2")  # where its draft is cached
            assert (await anext(held)).text == "It"
            await held.aclose()
            await stage.engine.close()

    play(scenario())


def test_where_one_server_dies_its_refinements_go_on_at_another(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        dead, alive = VLLMStub(encoder, writes(encoder, "4")), VLLMStub(encoder, writes(encoder, "5"))
        async with serving(dead, alive):
            stage = Stage(encoder, [dead, alive])
            await stage.build(breaker_failures=1, breaker_cooldown_s=30.0).await_answer()
            assert (await stage.ask())[0].text == "4"
            dead.answers = [always(reset())]
            assert (await stage.ask())[0].text == "5"
            assert stage.slept == [0.0]  # another server is at hand: nobody waits
            for _ in range(3):
                assert (await stage.ask(run="other"))[0].text == "5"
            assert len(dead.asked) == 2
            stage.now += 31.0
            dead.answers = [writes(encoder, "4")]
            assert (await stage.ask(run="third"))[0].text == "4"  # it is tried again, and is back
            await stage.engine.close()

    play(scenario())


def test_a_server_that_has_not_answered_gets_no_requests(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        late, ready = (
            VLLMStub(encoder, writes(encoder, "4"), models=error(503)),
            VLLMStub(encoder, writes(encoder, "5")),
        )
        async with serving(late, ready):
            stage = Stage(encoder, [late, ready])
            engine = stage.build()
            with pytest.raises(EngineUnavailable):
                engine.check()
            waiting = asyncio.create_task(engine.await_answer())
            await until(lambda: stage.is_ready)
            assert [(await stage.ask(run=run))[0].text for run in "abc"] == ["5", "5", "5"]
            waiting.cancel()
            await asyncio.wait([waiting])
            await engine.close()

    play(scenario())


def test_the_servers_failure_says_nothing_of_what_it_said(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        async with staged(encoder, always(error(404, message="SECRET"))) as stage:
            with pytest.raises((UpstreamUnavailable, UpstreamFailed)) as failed:
                await stage.ask()
            assert failed.value.message == "the engine 'gpu' does not serve this server"

    play(scenario())
