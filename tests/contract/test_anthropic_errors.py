"""Errors on the paths of Anthropic's API, as the official `anthropic` SDK raises them: its shape, its types, its id."""

import asyncio
import json
from typing import Any

import anthropic
import httpx2
import pytest

from slhf_server.app import create_app
from slhf_server.errors import EngineFailed, EngineUnavailable, RequestError, UpstreamFailed
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import Serve
from tests.contract.test_anthropic_sdk import ASK, SMALL, connect
from tests.server.api.raw import exchange

LONG = {"messages": [{"role": "user", "content": "x " * 5000}]}
PREFILL = {"messages": [*ASK, {"role": "assistant", "content": "It is"}]}


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("change", "exception", "kind", "code", "param"),
    [
        ({"model": "claude-9"}, anthropic.NotFoundError, "not_found_error", "model_not_found", "model"),
        ({"max_tokens": 0}, anthropic.BadRequestError, "invalid_request_error", None, "max_tokens"),
        ({"extra_body": {"temperature": 9}}, anthropic.BadRequestError, "invalid_request_error", None, "temperature"),
        ({"extra_body": {"seed": 9}}, anthropic.BadRequestError, "invalid_request_error", None, "seed"),
        (
            {"extra_body": {"refine": {"roundz": 1}}},
            anthropic.BadRequestError,
            "invalid_request_error",
            None,
            "refine.roundz",
        ),
        (PREFILL, anthropic.BadRequestError, "invalid_request_error", None, "messages"),
        (LONG, anthropic.BadRequestError, "invalid_request_error", "context_length_exceeded", "messages"),
        ({"system": "x " * 5000}, anthropic.BadRequestError, "invalid_request_error", "context_length_exceeded", None),
    ],
)
def test_errors_are_the_sdks_typed_exceptions(
    serve: Serve,
    change: dict[str, Any],
    exception: type[anthropic.APIStatusError],
    kind: str,
    code: str | None,
    param: str | None,
    stream: bool,
) -> None:
    with connect(serve()) as sdk, pytest.raises(exception) as caught:
        sdk.messages.create(**SMALL | change, stream=stream)
    error = caught.value
    assert (error.type, error.error_code) == (kind, code)
    assert isinstance(error.body, dict)
    assert error.body["type"] == "error"
    assert error.body["request_id"] == error.request_id
    assert param is None or error.body["error"]["details"]["param"] == param


def test_a_thread_is_refused_by_the_code_at_which_the_sdk_sends_the_whole_conversation(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/messages", json=SMALL | {"thread": {"type": "create"}})
    details = {"error_code": "thread_unsupported_request", "param": "thread"}
    assert (answer.status_code, answer.json()["error"]["details"]) == (400, details)


def test_max_tokens_is_required(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/messages", json={"messages": ASK})
    assert (answer.status_code, answer.json()["error"]["details"]) == (400, {"param": "max_tokens"})


@pytest.mark.parametrize(
    ("raised", "exception", "kind"),
    [
        (EngineFailed("boom"), anthropic.InternalServerError, "api_error"),
        (UpstreamFailed("boom"), anthropic.InternalServerError, "api_error"),
        (EngineUnavailable("gone"), anthropic.ServiceUnavailableError, "overloaded_error"),
    ],
)
def test_the_servers_own_errors_are_typed_exceptions_too(
    serve: Serve, raised: RequestError, exception: type[anthropic.APIStatusError], kind: str
) -> None:
    with connect(serve(FakeEngine(lambda turns: raised))) as sdk, pytest.raises(exception) as caught:
        sdk.messages.create(**SMALL)
    assert (caught.value.status_code, caught.value.type, caught.value.error_code) == (raised.status, kind, raised.code)
    assert caught.value.response.headers.get("retry-after") == (str(raised.retry_after) if raised.retry_after else None)


def test_a_deadline_is_a_timeout_error(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=5))
    with connect(url) as sdk, pytest.raises(anthropic.GatewayTimeoutError) as caught:
        sdk.messages.create(**SMALL, extra_body={"refine": {"timeout_ms": 50}})
    assert (caught.value.type, caught.value.error_code) == ("timeout_error", "deadline_exceeded")


def test_a_full_queue_is_a_rate_limit_error(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=0.5), limits={"running": 1, "waiting": 0})
    with connect(url) as sdk, sdk.messages.create(**SMALL, stream=True) as running:
        next(iter(running))
        with pytest.raises(anthropic.RateLimitError) as caught:
            sdk.messages.create(**SMALL)
    assert (caught.value.type, caught.value.response.headers["retry-after"]) == ("rate_limit_error", "1")


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer wrong"}, {"x-api-key": "wrong"}])
def test_a_missing_or_wrong_key_is_an_authentication_error(serve: Serve, headers: dict[str, str]) -> None:
    answer = httpx2.post(f"{serve(api_keys='me=right')}/v1/messages", json=SMALL, headers=headers)
    assert (answer.status_code, answer.json()["error"]["type"]) == (401, "authentication_error")
    assert answer.json()["request_id"] == answer.headers["request-id"]


@pytest.mark.parametrize("headers", [{"Authorization": "Bearer right"}, {"x-api-key": "right"}])
@pytest.mark.parametrize("version", [{}, {"anthropic-version": "2023-06-01", "anthropic-beta": "a,b"}])
def test_a_right_key_gets_its_answer_whatever_the_version(
    serve: Serve, headers: dict[str, str], version: dict[str, str]
) -> None:
    url = serve(api_keys="me=right")
    assert httpx2.post(f"{url}/v1/messages", json=SMALL, headers=headers | version).status_code == 200


def test_the_sdks_key_opens_the_server(serve: Serve) -> None:
    url = serve(api_keys="me=right")
    with connect(url, api_key="right") as sdk:
        answer = sdk.messages.create(**SMALL)
        assert answer._request_id
    with connect(url, api_key="wrong") as sdk, pytest.raises(anthropic.AuthenticationError):
        sdk.messages.create(**SMALL)


def test_a_keys_rate_is_a_rate_limit_error(serve: Serve) -> None:
    url = serve(api_keys="me=right", limits={"key_requests_per_minute": 1})
    with connect(url, api_key="right") as sdk:
        sdk.messages.create(**SMALL)
        with pytest.raises(anthropic.RateLimitError) as caught:
            sdk.messages.create(**SMALL)
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 60


def test_a_body_over_the_limit_is_too_large(serve: Serve) -> None:
    with connect(serve(limits={"body_bytes": 1000})) as sdk, pytest.raises(anthropic.ContentTooLargeError) as caught:
        sdk.messages.create(**SMALL | LONG)
    assert isinstance(caught.value.body, dict)
    assert caught.value.body["error"]["type"] == "request_too_large"


def test_what_anthropic_has_beyond_this_server_is_not_found(serve: Serve) -> None:
    with connect(serve()) as sdk, pytest.raises(anthropic.NotFoundError) as caught:
        sdk.messages.batches.create(requests=[])
    assert caught.value.type == "not_found_error"


def test_a_body_that_never_comes_is_answered_in_that_shape_too(serve: Serve) -> None:
    head = b"POST /v1/messages HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    answer = exchange(serve(read_timeout_s=0.2), head)
    told = json.loads(answer.body)
    assert (answer.status, told["error"]["details"]["error_code"]) == (408, "request_timeout")
    assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")


def test_a_bug_is_an_api_error_that_names_the_request(serve: Serve) -> None:
    app = create_app(Settings(), FakeEngine().open)

    @app.get("/v1/messages/bug")
    async def bug() -> None:
        raise RuntimeError("SECRET")

    async def ask() -> httpx2.Response:
        transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://x") as http:
            return await http.get("/v1/messages/bug")

    answer = asyncio.run(ask())
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "api_error")
    assert answer.headers["request-id"] in answer.json()["error"]["message"]
    assert "SECRET" not in answer.text


def test_an_error_in_the_middle_of_a_stream_is_raised(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: ("half a text", EngineUnavailable("boom")), token_seconds=0.1)
    with connect(serve(engine)) as sdk:
        stream = sdk.messages.create(**SMALL, stream=True, extra_body={"refine": {"draft": "d"}})
        got: list[str] = []
        with pytest.raises(anthropic.APIStatusError, match="boom") as caught:
            got.extend(event.type for event in stream)
    assert (got[0], got[-1]) == ("message_start", "content_block_delta")
    assert (caught.value.type, caught.value.error_code) == ("overloaded_error", "engine_unavailable")


def test_a_place_in_the_conversation_is_named_as_the_client_wrote_it(serve: Serve) -> None:
    url = serve()
    image = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    result = {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a"}, image]}
    call = {"type": "tool_use", "id": "t1", "name": "f", "input": {}}
    wrong: list[tuple[dict[str, Any], str]] = [
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, image]}]}, "0.content.1.type"),
        (
            {"messages": [*ASK, {"role": "assistant", "content": [call]}, {"role": "user", "content": [result]}]},
            "2.content.0.content.1.type",
        ),
        ({"messages": [{"role": "user", "content": [result | {"content": "r"}, image]}]}, "0.content.1.type"),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "0.content.0.text"),
        ({"messages": [{"role": "user", "content": [{"type": "text", "text": 5}]}]}, "0.content.0.text"),
        ({"messages": [{"role": "narrator", "content": "x"}]}, "0.role"),
        ({"messages": [{"role": "user"}]}, "0.content"),
        ({"messages": [{"role": "user", "content": [call]}]}, "0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, "0.content.0.type"),
        ({"messages": [{"role": "user", "content": [call | {"": "x"}]}]}, "0.content.0.type"),
        ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "0.content.0.tool_use_id"),
    ]
    for change, place in wrong:
        for system in ({}, {"system": "Be brief."}):
            answer = httpx2.post(f"{url}/v1/messages", json=SMALL | change | system)
            assert answer.status_code == 400, change
            assert answer.json()["error"]["details"]["param"] == f"messages.{place}"
    answer = httpx2.post(f"{url}/v1/messages", json=SMALL | {"system": [{"type": "text", "text": "a"}, image]})
    assert (answer.status_code, answer.json()["error"]["details"]["param"]) == (400, "system.1.type")
