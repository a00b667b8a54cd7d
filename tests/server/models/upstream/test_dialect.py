"""What a request is made of: the client's, the server's, the settings' fields; and which of them are left out."""

import json
import logging
from typing import Any

import pytest

from slhf_server.errors import BadRequest, ContextLengthExceeded, RequestError, UpstreamUnavailable
from slhf_server.models.base import SamplingParams, Turn
from slhf_server.models.upstream.refusal import read_refusal
from tests.server.conftest import Play
from tests.server.models.upstream.faulty import HELLO, Reply, error, hello, says
from tests.server.models.upstream.stage import ASK, PLAIN, Stage, staged

SENT = ["model", "messages", "stream", "stream_options", "max_tokens", "seed", "top_k", "tools", "temperature", "stop"]


def forbidden(*loc: str) -> dict[str, Any]:
    return {"type": "extra_forbidden", "loc": ["body", *loc], "msg": "Extra inputs are not permitted", "input": {}}


def refuses(*names: str, status: int = 400) -> Reply:
    """As pydantic says it."""
    return says({"detail": [forbidden(name) for name in names]}, status=status)


@pytest.mark.parametrize(
    ("said", "fields"),
    [
        ({"error": {"message": "Unknown parameter: 'seed'.", "param": "seed", "code": "unknown_parameter"}}, {"seed"}),
        ({"error": {"message": "x", "param": "stream_options.include_usage"}}, {"stream_options"}),
        ({"error": {"message": "x", "param": "messages.[0].content"}}, {"messages"}),
        ({"error": {"message": "x", "param": "messages[0].content"}}, {"messages"}),
        ({"error": {"message": "x", "param": "model"}}, {"model"}),
        ({"detail": [forbidden("stream_options"), forbidden("top_k")]}, {"stream_options", "top_k"}),
        ({"detail": [forbidden("stream_options", "include_usage")]}, {"stream_options"}),
        ({"object": "error", "message": {"detail": [forbidden("seed")]}, "code": 3001}, {"seed"}),
        ({"object": "Error", "message": [forbidden("tools")]}, {"tools"}),
        ({"error": {"code": "x", "message": json.dumps({"detail": [forbidden("max_tokens")]})}}, {"max_tokens"}),
        ({"error": {"message": "Extra inputs are not permitted: stream_options"}}, {"stream_options"}),
        ({"error": {"message": "Unrecognized request argument supplied: seed"}}, {"seed"}),
        ({"error": {"message": "Unrecognized request arguments supplied: top_k, max_tokens"}}, {"top_k", "max_tokens"}),
        ({"error": {"message": "property 'seed' is unsupported"}}, {"seed"}),
        ({"error": {"message": "`temperature` and others are not supported with this model"}}, {"temperature"}),
        ([{"error": {"message": 'Unknown name "seed": Cannot find field.\nUnknown name "top_k": Cannot find field.'}}],
         {"seed", "top_k"}),
        ({"error": {"details": [{"fieldViolations": [{"field": "top_k", "description": "x"}]}]}}, {"top_k"}),
        ({"error": 'json: unknown field "stop"'}, {"stop"}),
        ("unknown field `top_k`, expected one of `model`, `messages`, `seed`, `stop`", {"top_k"}),
        ({"error": {"message": "OpenAIException - {'detail': [{'loc': ['body', 'seed'], 'type': 'extra_forbidden', "
                               "'input': {'tools': 1, 'stop': 2}}]}"}}, {"seed"}),
        ({"error": {"message": "Unsupported: 'max_tokens'. Use 'max_completion_tokens' instead."}}, {"max_tokens"}),
        ({"detail": [{"loc": "body.seed", "msg": "x"}]}, {"seed"}),
        ({"error": {"code": "unrecognized_keys", "keys": ["seed"], "path": []}}, {"seed"}),
        ({"error": {"issues": [{"code": "unrecognized_keys", "keys": ["stream_options"]}]}}, {"stream_options"}),
        ({"errors": [{"keyword": "x", "params": {"additionalProperty": "top_k"}}]}, {"top_k"}),
        ({"error": {"message": "stream_options: Extra inputs are not permitted"}}, {"stream_options"}),
        ({"error": {"message": "seed: Extra inputs are not permitted"}}, {"seed"}),
        ({"message": "\u53c2\u6570 stream_options \u4e0d\u652f\u6301"}, {"stream_options"}),
        ("Invalid value for stream_options", {"stream_options"}),
        # nothing that can be left out is to blame
        ({"error": {"message": "The model does not support messages with images. Please stop."}}, set()),
        ({"error": {"message": "please seed the tools and stop"}}, set()),
        ({"error": {"message": "x", "param": "user"}}, set()),
        ({"error": {"message": "x", "param": None}}, set()),
        ({"error": {"message": "x", "param": 5, "code": {}}, "detail": [{"loc": 7}, 7]}, set()),
        ({"detail": [{"loc": ["body"], "msg": "x", "input": {"error": {"param": "seed"}}}]}, set()),
        ("", set()),
        ("<html>seed</html>", set()),
        ("[" * 50_000, set()),
        ("\x00" * 200_000, set()),
    ],
)  # fmt: skip
def test_refused_fields_are_read_from_every_providers_format(said: Any, fields: set[str]) -> None:
    content = said if isinstance(said, str) else json.dumps(said)
    assert read_refusal(content.encode(), SENT).fields == fields


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 10 tokens.",
        "prompt is too long: 200 tokens > 100 maximum",
        "The input token count (5) exceeds the maximum number of tokens allowed (4).",
        "the request exceeds the available context size",
        "Your input exceeds the context window of this model.",
        "Invalid request: Your request exceeded model token limit: 8192",
    ],
)
def test_a_conversation_that_is_too_long_is_known_by_every_providers_words(message: str) -> None:
    assert read_refusal(json.dumps({"error": {"message": message}}).encode(), SENT).too_long
    repeated = {"detail": [{"loc": ["body", "x"], "msg": "Extra inputs are not permitted", "input": message}]}
    assert not read_refusal(json.dumps(repeated).encode(), SENT).too_long


async def failed(stage: Stage, sampling: SamplingParams) -> RequestError:
    with pytest.raises(RequestError) as raised:
        await stage.ask(sampling=sampling)
    return raised.value


OPTIONAL = SamplingParams(
    temperature=1.0, top_p=1.0, upstream_params={"parallel_tool_calls": True, "tool_choice": "auto"}
)


@pytest.mark.parametrize("name", ["stream_options", "temperature", "top_p", "parallel_tool_calls", "tool_choice"])
@pytest.mark.parametrize("status", [400, 422])
def test_what_nobody_asked_for_is_left_out_at_once_and_from_then_on(
    play: Play, caplog: pytest.LogCaptureFixture, name: str, status: int
) -> None:
    async def scenario() -> None:
        async with staged(refuses(name, status=status), hello(), max_retries=0, breaker_failures=1) as stage:
            for _ in range(3):
                assert await stage.ask(sampling=OPTIONAL)
            first, *others = (asked.body for asked in stage.server.asked)
            assert len(others) == 3
            assert all(body == {key: value for key, value in first.items() if key != name} for body in others)
            assert stage.slept == []

    with caplog.at_level(logging.INFO, "slhf_server"):
        play(scenario())
    assert [line for line in caplog.messages if name in line] == [
        f"upstream cloud does not take {name}: no longer sent"
    ]


def test_several_fields_may_be_refused_one_after_the_other(play: Play) -> None:
    async def scenario() -> None:
        async with staged(refuses("stream_options"), refuses("top_p"), hello(), max_retries=0) as stage:
            assert await stage.ask(sampling=OPTIONAL)
            assert len(stage.server.asked) == 3
            assert not {"stream_options", "top_p"} & stage.server.asked[2].body.keys()

    play(scenario())


@pytest.mark.parametrize(
    ("sampling", "name", "param"),
    [
        (SamplingParams(seed=5), "seed", "seed"),
        (SamplingParams(temperature=0.5), "temperature", "temperature"),
        (SamplingParams(logprobs=2), "top_logprobs", "top_logprobs"),
        (SamplingParams(stop=("x",)), "stop", "stop"),
        (SamplingParams(upstream_params={"reasoning_effort": "high"}), "reasoning_effort", "reasoning_effort"),
        (SamplingParams(upstream_params={"parallel_tool_calls": False}), "parallel_tool_calls", "parallel_tool_calls"),
        (PLAIN, "messages", "messages"),
    ],
)
def test_what_the_client_asked_for_is_never_dropped(
    play: Play, sampling: SamplingParams, name: str, param: str
) -> None:
    async def scenario() -> None:
        async with staged(refuses(name, "stream_options")) as stage:
            raised = await failed(stage, sampling)
            assert type(raised) is BadRequest
            assert raised.param == param
            assert raised.message == f"the upstream 'cloud' refused {param!r} as the request has it"
            assert len(stage.server.asked) == 1

    play(scenario())


def test_what_was_neutral_once_is_sent_where_it_is_not(play: Play) -> None:
    async def scenario() -> None:
        async with staged(refuses("temperature"), hello()) as stage:
            await stage.ask(sampling=SamplingParams(temperature=1.0))
            await stage.ask(sampling=SamplingParams(temperature=0.5))
            assert [body.body.get("temperature") for body in stage.server.asked] == [1.0, None, 0.5]

    play(scenario())


@pytest.mark.parametrize("mine", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("sampling", [SamplingParams(max_tokens=7), SamplingParams(max_total_tokens=7)])
def test_a_limit_that_is_not_known_is_sent_by_its_other_name(play: Play, mine: str, sampling: SamplingParams) -> None:
    other = {"max_tokens": "max_completion_tokens", "max_completion_tokens": "max_tokens"}[mine]

    async def scenario() -> None:
        async with staged(refuses(mine), hello(), max_tokens_parameter=mine, max_retries=0) as stage:
            for _ in range(2):
                assert await stage.ask(sampling=sampling)
            first, *others = (asked.body for asked in stage.server.asked)
            assert (first[mine], len(others)) == (7, 2)
            assert all(body[other] == 7 and mine not in body for body in others)

    play(scenario())


TOO_LARGE = {"error": {"message": "max_completion_tokens is too large: 7", "param": "max_completion_tokens"}}


def test_a_limit_that_is_too_large_is_the_clients_or_left_out(play: Play) -> None:
    async def scenario() -> None:
        async with staged(says(TOO_LARGE, status=400), hello()) as stage:
            raised = await failed(stage, SamplingParams(max_tokens=7))
            assert (raised.param, len(stage.server.asked)) == ("max_tokens", 1)
        async with staged(says(TOO_LARGE, status=400), hello(), hello()) as stage:
            for _ in range(2):
                assert await stage.ask(sampling=SamplingParams(max_total_tokens=7))
            sent = ["max_completion_tokens" in asked.body for asked in stage.server.asked]
            assert sent == [True, False, True]  # another time it may not be too large

    play(scenario())


def test_a_limit_that_is_known_by_neither_name_is_the_clients(play: Play) -> None:
    async def scenario() -> None:
        async with staged(refuses("max_completion_tokens"), refuses("max_tokens"), hello()) as stage:
            raised = await failed(stage, SamplingParams(max_tokens=7))
            assert (raised.param, len(stage.server.asked)) == ("max_tokens", 2)

    play(scenario())


def test_a_model_that_cannot_stream_is_asked_for_the_whole(play: Play) -> None:
    message = "Your organization must be verified to stream this model."
    reply = says({"error": {"message": message, "param": "stream", "code": "unsupported_value"}}, status=400)

    async def scenario() -> None:
        async with staged(reply, says(HELLO)) as stage:
            for _ in range(2):
                assert (await stage.ask())[0].text == "Hello you"
            assert [asked.body["stream"] for asked in stage.server.asked] == [True, False, False]
            assert "stream_options" not in stage.server.asked[1].body

    play(scenario())


def test_a_refusal_that_goes_on_ends(play: Play) -> None:
    async def scenario() -> None:
        async with staged(refuses("stream_options")) as stage:
            assert type(await failed(stage, OPTIONAL)) is BadRequest
            assert len(stage.server.asked) == 2
            assert await failed(stage, OPTIONAL)
            assert len(stage.server.asked) == 4  # nothing was learnt: it did not help

    play(scenario())


@pytest.mark.parametrize("name", ["model", "top_k"])
def test_what_the_settings_gave_is_the_operators_to_mend(
    play: Play, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    async def scenario() -> None:
        reply = says({"error": {"message": "SECRET", "param": name}}, status=400)
        async with staged(reply, extra_body={"top_k": 5}) as stage:
            assert isinstance(await failed(stage, PLAIN), UpstreamUnavailable)

    play(scenario())
    assert caplog.messages == [f"upstream cloud: misconfigured (HTTP 400, {name})"]


def test_an_error_in_the_body_of_a_200_may_refuse_a_field_too(play: Play) -> None:
    reply = error(200, code="400", message="Extra inputs are not permitted: stream_options")

    async def scenario() -> None:
        async with staged(reply, hello()) as stage:
            assert await stage.ask()
            assert "stream_options" not in stage.server.asked[1].body

    play(scenario())


def test_a_long_conversation_is_no_refused_field(play: Play) -> None:
    async def scenario() -> None:
        async with staged(error(400, message="maximum context length is 5 tokens: stop, tools")) as stage:
            assert isinstance(await failed(stage, PLAIN), ContextLengthExceeded)

    play(scenario())


def test_the_settings_add_to_every_request(play: Play) -> None:
    extra = {
        "chat_template_kwargs": {"enable_thinking": False},
        "provider": {"order": ["x"], "allow_fallbacks": False},
        "temperature": 0.25,
    }
    upstream_params = {"chat_template_kwargs": {"enable_thinking": True, "mine": 1}}

    async def scenario() -> None:
        async with staged(
            hello(), says(HELLO), extra_body=extra, extra_headers={"X-Title": "t", "user-agent": "k"}
        ) as stage:
            await stage.ask(sampling=SamplingParams(temperature=0.75, upstream_params=upstream_params))
            await stage.ask(deltas=False)
            first, second = (asked.body for asked in stage.server.asked)
            assert first["chat_template_kwargs"] == {"enable_thinking": False, "mine": 1}
            assert (first["provider"], first["temperature"]) == (extra["provider"], 0.25)
            assert second.items() >= extra.items()
            headers = stage.server.asked[0].headers
            assert (headers["x-title"], headers["user-agent"]) == ("t", "k")

    play(scenario())


def test_what_the_settings_omit_is_never_sent(play: Play) -> None:
    omit = ["stream_options", "seed", "tools", "max_completion_tokens", "stop"]
    sampling = SamplingParams(seed=5, max_tokens=7, stop=("x",), temperature=0.5, upstream_params={"tools": [{}]})

    async def scenario() -> None:
        async with staged(hello(), omit=omit) as stage:
            await stage.ask(sampling=sampling)
            sent = stage.server.asked[0].body
            assert sent.keys() == {"model", "messages", "stream", "temperature"}

    play(scenario())


def test_a_message_is_sent_as_the_client_wrote_it(play: Play) -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, "extra_content": {"x": None}}
    said = {"role": "assistant", "content": None, "reasoning_content": "r", "tool_calls": [call], "unknown": [1, None]}

    async def scenario() -> None:
        async with staged(hello()) as stage:
            await stage.ask((*ASK, Turn("assistant", "", message=said)))
            assert stage.server.asked[0].body["messages"][-1] == said

    play(scenario())
