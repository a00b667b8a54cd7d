"""A remote engine asks by token ids and reads token ids."""

import json
from contextlib import aclosing

import pytest

from slhf import Bundle, RoleWeights, SamplingDefaults
from slhf_server.engine.prompt import PromptEncoder
from slhf_server.errors import (
    ContextLengthExceeded,
    TokenBudgetExceeded,
)
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.structured_output.response_format import structured_output_of
from slhf_server.models.structured_output.workers import Workers
from tests.server.conftest import Play
from tests.server.engine.vllm_stub import (
    ASK,
    always,
    piece,
    sent,
    staged,
    usage,
    writes,
)
from tests.server.models.upstream.faulty import streams


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


@pytest.mark.parametrize(("own", "asked", "sent_on"), [(0, 0, None), (0, 7, 7), (-1, 0, -1), (-1, 7, 6), (-1, 1, None)])
def test_a_requests_priority_goes_along_with_the_engines_own_step_and_zero_is_not_sent(
    play: Play, encoder: PromptEncoder, own: int, asked: int, sent_on: int | None
) -> None:
    async def scenario() -> None:
        async with staged(encoder, writes(encoder, "4"), priority=own) as stage:
            await stage.ask(ASK, SamplingParams(priority=asked))
            assert sent(stage.servers[0].asked[0]).get("priority") == sent_on

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


def test_what_can_never_fit_is_refused_before_anything_is_sent(play: Play, encoder: PromptEncoder) -> None:
    async def scenario() -> None:
        async with staged(encoder, writes(encoder, "4")) as stage:
            with pytest.raises(ContextLengthExceeded):
                await stage.ask([Turn("user", "word " * 600)])
            with pytest.raises(TokenBudgetExceeded):
                await stage.ask(sampling=SamplingParams(max_total_tokens=3))
            assert stage.servers[0].asked == []

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
