"""The OpenAPI document is complete and true: schemathesis makes requests from it, and every answer is in it."""

from collections.abc import Iterator
from typing import Any

import httpx2
import pytest
from jsonschema import Draft202012Validator
from pydantic import SecretStr
from schemathesis import GenerationMode

from slhf_server.api.anthropic.message_parameters import COUNT_TOKENS, MESSAGES
from slhf_server.api.openai.parameters import CHAT, COMPLETIONS, RESPONSES
from slhf_server.api.parameter import Parameter
from slhf_server.api.tokens import TOKENIZE
from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.contract.bodies import BODIES
from tests.contract.histories import HISTORIES
from tests.contract.openapi import OPERATIONS, every_answer_is_as_documented

REQUESTS = ["RefineRequest", "ChatRequest", "CompletionRequest", "ResponseRequest", "MessageRequest"]
KEY = "right"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    engine = FakeEngine(max_model_len=100)
    with running(create_app(Settings(), engine.open)) as base:
        yield base


@pytest.fixture(scope="module")
def guarded() -> Iterator[str]:
    """Mounted under a prefix, with a key."""
    engine = FakeEngine(max_model_len=100)
    with running(create_app(Settings(api_keys=SecretStr(f"me={KEY}")), engine.open), "/small") as base:
        yield base


@pytest.fixture(scope="module")
def document(url: str) -> dict[str, Any]:
    found: dict[str, Any] = httpx2.get(f"{url}/openapi.json").json()
    return found


def test_every_operation_is_tried_here(document: dict[str, Any]) -> None:
    told = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    assert sorted(told) == sorted(OPERATIONS)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation[1])
def test_every_answer_is_as_documented(url: str, operation: tuple[str, str], mode: GenerationMode) -> None:
    if mode.is_negative and operation[0] == "GET":
        pytest.skip("nothing can be wrong with this request")
    every_answer_is_as_documented(url, operation, mode, examples=50 if operation[0] == "POST" else 10)


@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.parametrize("operation", [one for one in OPERATIONS if one[1].startswith("/v1/")], ids=lambda one: one[1])
def test_every_answer_is_as_documented_under_a_prefix_with_a_key(
    guarded: str, operation: tuple[str, str], mode: GenerationMode
) -> None:
    if mode.is_negative and operation[0] == "GET":
        pytest.skip("nothing can be wrong with this request")
    every_answer_is_as_documented(guarded, operation, mode, examples=25, key=KEY)
    method, path = operation
    assert httpx2.request(method, guarded + path, json={} if method == "POST" else None).status_code == 401


@pytest.mark.parametrize(
    ("request_", "table"),
    [
        ("ChatRequest", CHAT),
        ("CompletionRequest", COMPLETIONS),
        ("ResponseRequest", RESPONSES),
        ("MessageRequest", MESSAGES),
        ("CountRequest", COUNT_TOKENS),
        ("TokenizeRequest", TOKENIZE),
    ],
)
def test_every_parameter_is_shown_and_nothing_else(
    document: dict[str, Any], request_: str, table: dict[str, Parameter]
) -> None:
    body = document["components"]["schemas"][request_]
    assert set(body["properties"]) == set(table)
    assert body["additionalProperties"] is False


@pytest.mark.parametrize(
    ("sections", "open_"),
    [
        (("Message", "TextPart", "RefusalPart", "OtherPart", "ToolCall", "FunctionCall", "InputMessage"), True),
        (("InputCall", "InputResult", "OtherItem", "ConversationMessage", "ToolUse", "ToolResult", "Tool"), True),
        (("RefineRequest", "RefineOptions", "StreamOptions", "Text", "TextFormat"), False),
        (("ToolChoice", "OutputConfig", "JsonFormat"), False),
    ],
)
def test_histories_are_documented_as_open_and_everything_else_as_closed(
    document: dict[str, Any], sections: tuple[str, ...], open_: bool
) -> None:
    for name in sections:
        assert document["components"]["schemas"][name].get("additionalProperties", True) is open_, name


@pytest.mark.parametrize(("request_", "endpoint"), [*zip(REQUESTS, BODIES, strict=True)])
def test_the_document_admits_what_the_server_takes(document: dict[str, Any], request_: str, endpoint: str) -> None:
    admits = Draft202012Validator(document | {"$ref": f"#/components/schemas/{request_}"})
    admits.validate(BODIES[endpoint])
    if endpoint in ("/v1/refine", "/v1/chat/completions"):
        for history in HISTORIES.values():
            admits.validate({"messages": history.messages})


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/v1/refine", "ErrorResponse"),
        ("/v1/chat/completions", "ErrorResponse"),
        ("/v1/messages", "AnthropicErrorResponse"),
    ],
)
def test_every_answer_of_the_endpoints_that_generate_is_documented(
    document: dict[str, Any], path: str, error: str
) -> None:
    responses = document["paths"][path]["post"]["responses"]
    assert set(responses) == {"200", "400", "401", "404", "408", "413", "415", "429", "431", "500", "502", "503", "504"}
    assert set(responses["200"]["content"]) == {"application/json", "text/event-stream"}
    assert responses["200"]["content"]["application/json"]["schema"]["$ref"]
    for status in set(responses) - {"200"}:
        schema = responses[status]["content"]["application/json"]["schema"]
        assert schema == {"$ref": f"#/components/schemas/{error}"}, status


def test_a_field_of_our_own_cannot_be_set(url: str) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "upstream_params": {"tools": [1]}}
    answer = httpx2.post(f"{url}/v1/chat/completions", json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, "upstream_params")


def test_a_model_whose_name_has_a_line_break_is_not_found_as_any_other(url: str, guarded: str) -> None:
    for base in (url, guarded):
        answer = httpx2.get(f"{base}/v1/models/a%0Ab", headers={"Authorization": f"Bearer {KEY}"})
        assert answer.status_code == 404
        assert answer.json()["error"]["message"]
