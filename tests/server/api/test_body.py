"""Bodies that are too much or no JSON: a 400 that says which limit, before any work is done on them."""

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest

from tests.conftest import Serve

ASK = [{"role": "user", "content": "a"}]
PATH = "/v1/chat/completions"


@pytest.fixture
def post(serve: Serve) -> Callable[..., httpx2.Response]:
    url = serve()

    def send(body: Any, path: str = PATH) -> httpx2.Response:
        return httpx2.post(f"{url}{path}", content=body if isinstance(body, bytes) else json.dumps(body).encode())

    return send


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"[" * 100_000, "more than 20480 JSON values"),
        (b"[" * 15_000, "nested too deeply"),
        (b'{"a":' * 15_000, "nested too deeply"),
        (b'{"metadata":{"x":NaN}}', "NaN"),
        (b'{"metadata":{"x":-Infinity}}', "Infinity"),
        (b'{"metadata":{"x":1e400}}', "too large"),
        (b'{"metadata":{"x":' + b"9" * 5_000 + b"}}", "too long"),
        (b'{"metadata":"\\ud800"}', "UTF-8"),
        (b'{"metadata":"\xff"}', "UTF-8"),
        (b'{"metadata":', "not valid JSON"),
        (b"", "must be a JSON object"),
        ({"messages": ASK, "metadata": [0] * 30_000}, "more than 20480 JSON values"),
        ({"messages": ASK, "metadata": [0] * 10_000}, "more than 8192 JSON values"),
        ({"messages": ASK, "logit_bias": {str(i): 1 for i in range(10_000)}}, "more than 8192 JSON values"),
        ({"text": {str(i): 1 for i in range(10_000)}}, "more than 8192 JSON values"),
        ({"text": {"format": {str(i): 1 for i in range(10_000)}}}, "more than 8192 JSON values"),
        ({"messages": ASK * 2_049}, "messages: more than 2048"),
    ],
)
def test_what_is_refused_is_told_why(post: Callable[..., httpx2.Response], body: Any, said: str) -> None:
    answer = post(body)
    assert answer.status_code == 400
    assert said in answer.json()["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/refine", "/v1/completions", "/v1/responses", PATH])
def test_the_limits_hold_on_each_endpoint(post: Callable[..., httpx2.Response], path: str) -> None:
    assert "20480" in post(b"[0" + b",0" * 30_000 + b"]", path).json()["error"]["message"]


def test_a_limit_of_messages_names_its_parameter(post: Callable[..., httpx2.Response]) -> None:
    assert post({"messages": ASK * 2_049}).json()["error"]["param"] == "messages"
    assert post({"input": ASK * 2_049}, "/v1/responses").json()["error"]["param"] == "input"


@pytest.mark.parametrize(
    "content",
    ["[{,," * 30_000, '"' * 300_000, "\\" * 100_001, '\\",[' * 100_000, "[" * 65_535 + '"\\'],
    ids=lambda c: c[:4],
)
def test_what_stands_in_a_string_is_not_counted(post: Callable[..., httpx2.Response], content: str) -> None:
    """Escapes and slices of 64 KiB meet in every way; the fake engine takes 4096 words."""
    for shift in range(3):
        body = {"messages": [{"role": "user", "content": "b" * shift + content}], "refine": {"rounds": 0}}
        assert post(body).status_code == 200


def test_values_are_counted_behind_long_strings(post: Callable[..., httpx2.Response]) -> None:
    body = {"metadata": ['\\"' * 70_000, [0] * 30_000], "messages": ASK}
    assert "20480" in post(body).json()["error"]["message"]


def test_a_byte_order_mark_is_read_over(post: Callable[..., httpx2.Response]) -> None:
    assert post(b"\xef\xbb\xbf" + json.dumps({"messages": ASK}).encode()).status_code == 200


def test_an_error_does_not_send_back_what_it_was_sent(post: Callable[..., httpx2.Response]) -> None:
    for body in ({"messages": ASK, "k" * 100_000: 1}, {"messages": ASK, "model": "m" * 100_000}):
        answer = post(body)
        assert answer.status_code in (400, 404)
        assert len(answer.content) < 3_000


def test_a_long_name_leaves_room_for_the_names_that_are_served(post: Callable[..., httpx2.Response]) -> None:
    assert "served: fake" in post({"messages": ASK, "model": "m" * 100_000}).json()["error"]["message"]


LONG = [{"role": "user", "content": "a" * 20_000}]


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (PATH, {"temperature": "hot"}),
        (PATH, {"messages": [{"role": "user", "content": [{"type": "text", "text": 1}]}]}),
        (PATH, {"unheard": 1}),
        (PATH, {"top_logprobs": 2}),
        ("/v1/refine", {"rounds": -1}),
        ("/v1/refine", {"prompt": "both"}),
        ("/v1/responses", {"text": {"format": {"type": "x"}}}),
        ("/v1/completions", {"stop": 1}),
    ],
)
def test_a_long_body_gets_the_errors_of_a_short_one(
    post: Callable[..., httpx2.Response], path: str, wrong: dict[str, Any]
) -> None:
    """It is validated elsewhere, so that the event loop goes on."""
    name = {"/v1/responses": "input", "/v1/completions": "prompt"}.get(path, "messages")
    given, padded = ("a" if name == "prompt" else ASK), "instruction" if path == "/v1/refine" else "user"
    answers = [post({name: given, padded: "u" * length, **wrong}, path) for length in (1, 20_000)]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert answers[0].json() == answers[1].json()


@pytest.mark.parametrize("body", [[LONG], "a" * 20_000])
def test_a_long_body_that_is_no_object_is_told_so(post: Callable[..., httpx2.Response], body: Any) -> None:
    assert post(body).json()["error"]["message"].startswith("the body must be a JSON object")
