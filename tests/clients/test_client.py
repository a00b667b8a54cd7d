"""Both clients, over fakes that speak the contract: every test runs for `Client` and for `AsyncClient`."""

import json
import socket

import httpx2
import pytest
from pydantic import ValidationError

from slhf import (
    APIError,
    AuthenticationError,
    BadRequest,
    ContextLengthExceeded,
    Conversation,
    DeadlineExceeded,
    InputError,
    Message,
    ModelNotFound,
    Options,
    PayloadTooLarge,
    RateLimited,
    RefineRequest,
    TransportError,
    Unavailable,
)
from tests.clients.caller import Caller, bad, good, in_turn
from tests.clients.fakes import MODEL, raw_server


def test_the_body_holds_what_was_given_and_nothing_else(caller: Caller) -> None:
    sent = in_turn(caller, good)
    caller.refine("why?", draft="so", rounds=2, temperature=None)
    (request,) = sent
    assert json.loads(request.content) == {"prompt": "why?", "draft": "so", "rounds": 2, "stream": False}


def test_a_conversation_may_be_messages_of_either_form(caller: Caller) -> None:
    sent = in_turn(caller, good)
    refined = caller.refine([{"role": "system", "content": "be brief"}, Message(role="user", content="why?")], rounds=0)
    assert json.loads(sent[0].content)["messages"] == [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "why?"},
    ]
    assert refined.output == "why?"


def test_the_keyword_arguments_are_those_of_the_contract() -> None:
    assert set(Options.__annotations__) == set(RefineRequest.model_fields) - {"prompt", "messages", "stream"}


def test_a_value_outside_the_contract_is_never_sent(caller: Caller) -> None:
    sent = in_turn(caller, good)
    with pytest.raises(ValidationError, match="rounds"):
        caller.refine("why?", rounds=-1)
    assert sent == []


@pytest.mark.parametrize(
    ("conversation", "options", "name"),
    [
        ("caf\udce9", Options(draft="x"), "prompt"),
        ("why?", Options(draft="caf\udce9"), "draft"),
        ([{"role": "user", "content": "\ud800"}], Options(), "messages"),
    ],
)
def test_a_text_that_is_no_unicode_is_never_sent(
    caller: Caller, conversation: Conversation, options: Options, name: str
) -> None:
    sent = in_turn(caller, good)
    with pytest.raises(InputError, match=f"^{name}: it cannot be sent as JSON"):
        caller.refine(conversation, **options)
    assert sent == []


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "1e999"])
def test_an_answer_with_numbers_that_are_none_is_not_an_answer(caller: Caller, literal: str) -> None:
    def broken_number(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, text=good(request).text.replace('"duration_ms":1.0', f'"duration_ms":{literal}'))

    in_turn(caller, broken_number)
    with pytest.raises(TransportError, match="is not a RefineResponse: "):
        caller.refine("why?")


def test_the_answer_is_typed_and_what_a_newer_server_adds_is_passed_over(caller: Caller) -> None:
    def newer(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(200, json=good(request).json() | {"news": 1})

    in_turn(caller, newer)
    refined = caller.refine("why?", draft="so", rounds=2)
    assert refined.output == "better better so"
    assert [entry.text for entry in refined.refinement.rounds] == ["so", "better so", "better better so"]


def test_models_are_listed(caller: Caller) -> None:
    sent = in_turn(caller, lambda request: httpx2.Response(200, json={"object": "list", "data": [MODEL]}))
    (card,) = caller.models()
    assert (card.id, card.root, card.card["trained"]) == ("duo", "base/model", "stackelberg")
    assert str(sent[0].url) == "http://127.0.0.1:8000/v1/models"


@pytest.mark.parametrize("written", ["http://far:9/proxy", "http://far:9/proxy/", "http://far:9/proxy/v1"])
def test_the_address_may_be_written_as_for_an_openai_client(caller: Caller, written: str) -> None:
    sent = in_turn(caller, good)
    caller.settings["base_url"] = written
    caller.refine("why?")
    assert str(sent[0].url) == "http://far:9/proxy/v1/refine"


def test_address_and_key_come_from_the_environment(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLHF_BASE_URL", "http://far:9")
    monkeypatch.setenv("SLHF_API_KEY", "secret")
    sent = in_turn(caller, good)
    caller.refine("why?")
    assert sent[0].url.host == "far"
    assert sent[0].headers["Authorization"] == "Bearer secret"


def test_without_a_key_none_is_sent(caller: Caller) -> None:
    sent = in_turn(caller, good)
    caller.refine("why?")
    assert "Authorization" not in sent[0].headers


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (400, None, BadRequest),
        (400, "context_length_exceeded", ContextLengthExceeded),
        (401, "invalid_api_key", AuthenticationError),
        (404, "model_not_found", ModelNotFound),
        (404, None, APIError),
        (413, None, PayloadTooLarge),
        (418, None, APIError),
        (429, "rate_limit_exceeded", RateLimited),
        (500, None, APIError),
        (503, "upstream_unavailable", Unavailable),
        (504, "deadline_exceeded", DeadlineExceeded),
    ],
)
def test_each_error_of_the_server_is_its_own_exception(
    caller: Caller, status: int, code: str | None, expected: type[APIError]
) -> None:
    caller.settings["max_retries"] = 0
    in_turn(caller, bad(status, code, **{"X-Request-Id": "r1", "Retry-After": "7"}))
    with pytest.raises(APIError, match="no") as raised:
        caller.refine("why?")
    assert type(raised.value) is expected
    assert (raised.value.status, raised.value.code, raised.value.type) == (status, code, "some_error")
    assert (raised.value.request_id, raised.value.retry_after) == ("r1", 7.0)


def test_an_error_page_of_a_proxy_is_quoted_in_short(caller: Caller) -> None:
    in_turn(caller, lambda request: httpx2.Response(502, text="<h1>Bad\n gateway</h1>" + "x" * 999))
    with pytest.raises(APIError, match="HTTP 502 Bad Gateway from http://127.0.0.1:8000/v1/refine: <h1>Bad gate") as e:
        caller.refine("why?")
    assert len(str(e.value)) < 300


def test_a_success_of_another_kind_of_server_is_named_as_such(caller: Caller) -> None:
    in_turn(caller, lambda request: httpx2.Response(200, text="<h1>It works!</h1>"))
    with pytest.raises(TransportError, match="is not a RefineResponse"):
        caller.refine("why?")


def test_a_refused_connection_names_the_address(caller: Caller) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        address = f"http://127.0.0.1:{unused.getsockname()[1]}"
    caller.settings["base_url"] = address
    with pytest.raises(TransportError, match=f"cannot connect to {address}"):
        caller.refine("why?")
    assert len(caller.waits) == 2


@pytest.mark.parametrize("address", ["http://far:port", "ftp://far", "far"])
def test_an_address_that_is_none_is_a_transport_error(caller: Caller, address: str) -> None:
    caller.settings["base_url"] = address
    with pytest.raises(TransportError):
        caller.refine("why?")


@pytest.mark.parametrize("reset", [False, True])
def test_an_answer_that_breaks_off_is_a_transport_error_and_not_sent_again(caller: Caller, reset: bool) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 999\r\n\r\n"
    with raw_server(head + b'{"id": ', reset=reset) as (url, got):
        caller.settings["base_url"] = url
        with pytest.raises(TransportError, match="no complete answer"):
            caller.refine("why?")
    assert len(got) == 1
