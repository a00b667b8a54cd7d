"""One test for each way in which an upstream can fail, with what the client is promised then.

Of two attempts both fail, so that retried faults show as such: `asked` is the number of requests that arrived.
"""

import logging
import zlib
from collections.abc import Callable
from typing import Any

import pytest

from slhf_server.errors import (
    BadRequest,
    ContextLengthExceeded,
    RequestError,
    UpstreamFailed,
    UpstreamUnavailable,
)
from slhf_server.models.base import Turn
from tests.server.conftest import Play
from tests.server.models.upstream.faulty import (
    HELLO,
    Reply,
    breaks_off,
    error,
    free_port,
    pieces,
    raw,
    reset,
    says,
    serving,
    silent,
    streams,
)
from tests.server.models.upstream.stage import ASK, KEY, staged

Fails = Callable[..., RequestError]


@pytest.fixture
def fails(play: Play, caplog: pytest.LogCaptureFixture) -> Fails:
    """`fails(reply, kind)` gives the error, after checks that hold for all of them."""

    def run(reply: Reply, kind: str, *, asked: int = 1, deltas: bool = True, **settings: Any) -> RequestError:
        seen: list[RequestError] = []

        async def scenario() -> None:
            async with staged(reply, max_retries=1, **settings) as stage:
                with pytest.raises(RequestError) as raised:
                    await stage.ask(deltas=deltas)
                seen.append(raised.value)
                assert len(stage.server.asked) == asked
                assert stage.count("slhf_upstream_errors_total", error_type=kind) == asked
                assert stage.count("slhf_upstream_request_latency_seconds_count") == 0
                assert stage.server.url not in raised.value.message

        with caplog.at_level(logging.INFO, "slhf_server"):
            play(scenario())
        assert "SECRET" not in seen[0].message + repr(seen[0]) + caplog.text
        return seen[0]

    return run


def test_nobody_listening_is_unavailable(play: Play) -> None:
    async def scenario() -> None:
        async with staged(says({}), base_url=f"http://127.0.0.1:{free_port()}/v1") as stage:
            with pytest.raises(UpstreamUnavailable, match="^the upstream 'cloud' cannot be reached$") as raised:
                await stage.ask()
            assert raised.value.retry_after == UpstreamUnavailable.retry_after
            assert stage.count("slhf_upstream_errors_total", error_type="connection") == 3

    play(scenario())


@pytest.mark.parametrize("deltas", [True, False])
def test_a_reset_before_the_answer_is_unavailable_after_retries(fails: Fails, deltas: bool) -> None:
    assert isinstance(fails(reset(), "connection", asked=2, deltas=deltas), UpstreamUnavailable)


def test_a_slow_first_byte_is_unavailable_after_retries(fails: Fails) -> None:
    assert isinstance(fails(silent(), "timeout", asked=2, timeout_s=0.05), UpstreamUnavailable)


@pytest.mark.parametrize("status", [408, 409, 500, 502, 503, 529])
def test_an_error_of_the_upstream_is_unavailable_after_retries(fails: Fails, status: int) -> None:
    assert isinstance(fails(error(status), "server_error", asked=2), UpstreamUnavailable)


def test_too_many_requests_are_unavailable_with_the_upstreams_wait(fails: Fails) -> None:
    raised = fails(error(429, Retry_After="7"), "rate_limited", asked=2)
    assert isinstance(raised, UpstreamUnavailable)
    assert raised.retry_after == 7


@pytest.mark.parametrize("status", [401, 403, 404, 405])
def test_a_wrong_key_or_address_is_the_operators_and_logged(
    fails: Fails, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    assert isinstance(fails(error(status), "misconfigured"), UpstreamUnavailable)
    assert caplog.messages == [f"upstream cloud: misconfigured (HTTP {status})"]


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_is_not_followed(play: Play, fails: Fails, status: int) -> None:
    async def scenario() -> None:
        async with serving(streams(*pieces("stolen"))) as elsewhere:
            moved = raw(b"", status=status, Location=f"{elsewhere.url}/chat/completions")
            async with staged(moved) as stage:
                with pytest.raises(UpstreamUnavailable):
                    await stage.ask()
                assert not await stage.upstream.probe()
            assert elsewhere.asked == []

    play(scenario())


@pytest.mark.parametrize("status", [400, 413, 422])
def test_a_refused_request_is_a_bad_request(fails: Fails, status: int) -> None:
    raised = fails(error(status), "refused")
    assert type(raised) is BadRequest
    assert raised.code is None
    assert raised.message == "the upstream 'cloud' refused the request"


@pytest.mark.parametrize(
    "said",
    [
        {"code": "context_length_exceeded"},
        {"message": "This model's maximum context length is 10 tokens. SECRET-BODY"},  # vLLM, which has no code
    ],
)
def test_a_conversation_that_is_too_long_keeps_its_code(fails: Fails, said: dict[str, str]) -> None:
    raised = fails(error(400, **said), "refused")
    assert isinstance(raised, ContextLengthExceeded)
    assert raised.code == "context_length_exceeded"


@pytest.mark.parametrize("deltas", [True, False])
def test_an_error_with_status_200_is_a_failure(fails: Fails, deltas: bool) -> None:
    assert isinstance(fails(error(200), "invalid_answer", deltas=deltas), UpstreamFailed)


def told(code: object, **more: str) -> dict[str, object]:
    """An error as OpenRouter, LiteLLM and vLLM write it where an answer was due."""
    return {"error": {"message": "SECRET-BODY", "code": code} | more}


@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize(
    ("code", "kind", "asked", "error"),
    [
        (502, "server_error", 2, UpstreamUnavailable),
        ("500", "server_error", 2, UpstreamUnavailable),
        (429, "rate_limited", 2, UpstreamUnavailable),
        ("rate_limit_exceeded", "rate_limited", 2, UpstreamUnavailable),
        (402, "misconfigured", 1, UpstreamUnavailable),
        (400, "refused", 1, BadRequest),
        ("context_length_exceeded", "refused", 1, ContextLengthExceeded),
        (None, "invalid_answer", 1, UpstreamFailed),
        (7, "invalid_answer", 1, UpstreamFailed),
    ],
)
def test_an_error_with_status_200_is_the_one_that_it_says(
    fails: Fails, code: object, kind: str, asked: int, error: type[RequestError], deltas: bool
) -> None:
    for reply in (says(told(code)), streams(told(code))):
        assert isinstance(fails(reply, kind, asked=asked, deltas=deltas), error)


@pytest.mark.parametrize(
    ("code", "kind", "error"),
    [
        (502, "server_error", UpstreamUnavailable),
        (429, "server_error", UpstreamUnavailable),
        (400, "invalid_answer", UpstreamFailed),
    ],
)
def test_an_error_in_the_middle_of_a_stream_is_not_retried(
    fails: Fails, code: int, kind: str, error: type[RequestError]
) -> None:
    assert isinstance(fails(streams(*pieces("x")[:-1], told(code)), kind), error)


def test_an_error_in_a_stream_is_a_failure(fails: Fails) -> None:
    assert isinstance(fails(streams({"error": {"message": "SECRET-BODY"}}), "invalid_answer"), UpstreamFailed)


@pytest.mark.parametrize(
    "reply",
    [
        streams('{"choices": [SECRET-BODY'),
        streams("\x00\x01"),
        streams([1, 2]),
        streams({"choices": "none"}),
        streams({"choices": [{"delta": {"content": {"not": "text"}}}]}),
        streams("[" * 100_000),
        raw(b"data: \xff\xfe\n\n", kind="text/event-stream"),
    ],
)
def test_a_stream_that_is_no_json_of_openais_is_a_failure(fails: Fails, reply: Reply) -> None:
    assert isinstance(fails(reply, "invalid_answer"), UpstreamFailed)


@pytest.mark.parametrize("content", [b'{"choices": [SECRET-BODY', b"", b"null", b"[]", b"\xff\xfe", b"[" * 100_000])
def test_a_plain_answer_that_is_no_json_of_openais_is_a_failure(fails: Fails, content: bytes) -> None:
    assert isinstance(fails(raw(content), "invalid_answer", deltas=False), UpstreamFailed)


@pytest.mark.parametrize("choices", [[], None, [{"message": {"content": "SECRET-BODY"}, "finish_reason": None}]])
def test_an_answer_without_a_finished_choice_is_a_failure(fails: Fails, choices: Any) -> None:
    assert isinstance(fails(says({"choices": choices}), "invalid_answer", deltas=False), UpstreamFailed)


@pytest.mark.parametrize("deltas", [True, False])
@pytest.mark.parametrize("kind", ["text/html", "text/event-stream", "application/json"])
def test_a_page_is_no_answer_whatever_its_content_type(fails: Fails, kind: str, deltas: bool) -> None:
    reply = raw(b"<html>SECRET-BODY</html>", kind=kind)
    assert isinstance(fails(reply, "invalid_answer", deltas=deltas), UpstreamFailed)


def test_compressed_rubbish_is_a_failure(fails: Fails) -> None:
    reply = raw(b"no gzip", Content_Encoding="gzip")
    assert isinstance(fails(reply, "broken_off", deltas=False), UpstreamFailed)


@pytest.mark.parametrize("deltas", [True, False])
def test_a_bomb_does_not_fill_the_memory(fails: Fails, deltas: bool) -> None:
    """100 MB in 100 kB."""
    pieces = b"".join(zlib_pieces(b'{"a": "', *[b"x" * 1_000_000] * 100))
    reply = raw(pieces, Content_Encoding="gzip")
    assert isinstance(fails(reply, "invalid_answer", deltas=deltas), UpstreamFailed)


def zlib_pieces(*pieces: bytes) -> list[bytes]:
    packer = zlib.compressobj(wbits=31)
    return [*map(packer.compress, pieces), packer.flush()]


@pytest.mark.parametrize("reply", [breaks_off(*pieces("x")), reset(*pieces("x"))])
def test_a_stream_that_breaks_off_after_its_finish_reason_is_whole(play: Play, reply: Reply) -> None:
    async def scenario() -> None:
        async with staged(reply) as stage:
            assert [chunk.text for chunk in await stage.ask()] == ["x", ""]

    play(scenario())


def test_what_comes_after_the_end_of_a_stream_cannot_spoil_it(play: Play) -> None:
    async def scenario() -> None:
        async with staged(silent(*pieces("x"), "[DONE]"), breaks_off(*pieces("x"), "[DONE]", "{")) as stage:
            for _ in range(2):
                assert [chunk.text for chunk in await stage.ask()] == ["x", ""]

    play(scenario())


@pytest.mark.parametrize("status", [400, 422])
@pytest.mark.parametrize("content", [b"x" * 10_000_000, b"[" * 100_000, b"\xff\xfe", b"", b"no gzip"])
def test_a_refusal_of_any_kind_is_a_bad_request(fails: Fails, content: bytes, status: int) -> None:
    headers = {"Content_Encoding": "gzip"} if content == b"no gzip" else {}
    assert type(fails(raw(content, status=status, **headers), "refused")) is BadRequest


def test_a_refusal_that_breaks_off_is_a_bad_request(fails: Fails) -> None:
    assert type(fails(raw(b'{"error": ', status=400, Content_Length="1000"), "refused")) is BadRequest


@pytest.mark.parametrize("done", [True, False])
def test_half_a_stream_is_a_failure_and_not_retried(fails: Fails, done: bool) -> None:
    """It ends in good order, with or without [DONE], and has no finish_reason."""
    assert isinstance(fails(streams(*pieces("SECRET-BODY")[:-1], done=done), "invalid_answer"), UpstreamFailed)


def test_a_stream_that_breaks_off_is_a_failure_and_not_retried(fails: Fails) -> None:
    raised = fails(breaks_off(*pieces("SECRET-BODY")[:-1]), "broken_off")
    assert isinstance(raised, UpstreamFailed)
    assert raised.message == "the upstream 'cloud' broke off its answer"


def test_a_reset_in_a_stream_is_a_failure_and_not_retried(fails: Fails) -> None:
    assert isinstance(fails(reset(*pieces("SECRET-BODY")[:-1]), "broken_off"), UpstreamFailed)


def test_a_stream_that_falls_silent_is_a_failure_and_not_retried(fails: Fails) -> None:
    assert isinstance(fails(silent(*pieces("x")[:-1]), "broken_off", timeout_s=0.1), UpstreamFailed)


def test_a_plain_answer_that_breaks_off_is_a_failure_and_not_retried(fails: Fails) -> None:
    reply = raw(b'{"choices": [', Content_Length="1000")
    assert isinstance(fails(reply, "broken_off", deltas=False), UpstreamFailed)


def test_text_that_cannot_be_sent_is_a_bad_request(play: Play) -> None:
    async def scenario() -> None:
        async with staged(says(HELLO), breaker_failures=1) as stage:
            with pytest.raises(BadRequest):
                await stage.ask((Turn("user", "half a character: \ud83d"),))
            assert stage.server.asked == []
            assert await stage.ask(deltas=False)

    play(scenario())


def test_only_the_configured_key_goes_out(play: Play, monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK would take more from variables that are meant for OpenAI itself."""
    for name in ("OPENAI_API_KEY", "OPENAI_ADMIN_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_BASE_URL"):
        monkeypatch.setenv(name, "http://OTHERS-SECRET")

    async def scenario() -> None:
        async with staged(says(HELLO)) as stage:
            await stage.ask(deltas=False)
            await stage.upstream.close()
            stage.build(api_key=None)
            await stage.ask(ASK, deltas=False)
            with_key, without = (asked.headers for asked in stage.server.asked)
            assert with_key["authorization"] == f"Bearer {KEY}"
            assert "authorization" not in without
            assert "OTHERS-SECRET" not in str(with_key) + str(without)

    play(scenario())
