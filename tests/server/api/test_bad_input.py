"""Every refused request gets OpenAI's error object with a message that says what to change."""

import json
from typing import Any

import httpx2

from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve

ASK = [{"role": "user", "content": "what is it"}]

BAD: list[tuple[str, dict[str, Any], int, str | None, str]] = [
    # endpoint, body, status, param, part of the message
    ("refine", {"messages": []}, 400, "messages", "empty"),
    ("refine", {}, 400, None, "exactly one of 'messages' and 'prompt'"),
    ("refine", {"prompt": "x", "messages": ASK}, 400, None, "exactly one"),
    ("refine", {"prompt": "x", "rounds": -1}, 400, "rounds", "greater than or equal to 0"),
    ("refine", {"prompt": "x", "rounds": 99}, 400, "rounds", "at most 8"),
    ("refine", {"prompt": "x", "rounds": True}, 400, "rounds", "integer"),
    ("refine", {"prompt": "x", "rounds": "2"}, 400, "rounds", "integer"),
    ("refine", {"prompt": "x", "draft": 3}, 400, "draft", "string"),
    ("refine", {"prompt": "x", "draft": ["a"]}, 400, "draft", "string"),
    ("refine", {"prompt": "x", "roundz": 1}, 400, "roundz", "unknown key"),
    ("refine", {"prompt": "x", "temperature": 2.5}, 400, "temperature", "less than or equal to 2"),
    ("refine", {"prompt": "x", "top_p": 0}, 400, "top_p", "greater than 0"),
    ("refine", {"prompt": "x", "max_tokens": 0}, 400, "max_tokens", "greater than 0"),
    ("refine", {"prompt": "x", "timeout_ms": 0}, 400, "timeout_ms", "greater than 0"),
    ("refine", {"prompt": "x", "timeout_ms": 10**9}, 400, "timeout_ms", "at most 600000"),
    ("refine", {"prompt": "x", "max_total_tokens": 10**9}, 400, "max_total_tokens", "at most 131072"),
    ("refine", {"prompt": "x", "on_error": "shrug"}, 400, "on_error", "return_draft"),
    ("refine", {"prompt": "x", "model": "gpt-9"}, 404, "model", "served: fake"),
    (
        "refine",
        {"messages": [*ASK, {"role": "assistant", "content": "y"}]},
        400,
        "messages",
        "its text as 'draft'",
    ),
    ("refine", {"messages": [{"role": "system", "content": "y"}]}, 400, "messages", "must be a user's"),
    ("refine", {"prompt": "x", "draft": "word " * 5000}, 400, "prompt", "maximum context length is 4096 tokens"),
    ("chat", {"messages": []}, 400, "messages", "empty"),
    ("chat", {}, 400, "messages", "required"),
    ("chat", {"messages": [*ASK, {"role": "assistant", "content": "y"}]}, 400, "messages", "refine.draft"),
    ("chat", {"messages": ASK, "refine": {"roundz": 1}}, 400, "refine.roundz", "unknown key"),
    ("chat", {"messages": ASK, "refine": {"rounds": -1}}, 400, "refine.rounds", "greater than or equal to 0"),
    ("chat", {"messages": ASK, "refine": {"draft": 1}}, 400, "refine.draft", "string"),
    ("chat", {"messages": ASK, "refine": "yes"}, 400, "refine", "dictionary"),
    ("chat", {"messages": ASK, "temperature": -0.1}, 400, "temperature", "greater than or equal to 0"),
    ("chat", {"messages": ASK, "model": "gpt-9"}, 404, "model", "does not exist"),
    ("chat", {"messages": ASK, "nonsense": 1}, 400, "nonsense", "unknown parameter"),
    (
        "chat",
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
        400,
        "messages.0.content.0.type",
        "text alone",
    ),
    ("chat", {"messages": [{"role": "user", "content": [{"type": "smell"}]}]}, 400, None, "image_url"),
    (
        "chat",
        {"messages": [{"role": "user", "content": ["x", {"type": "text", "text": None}]}]},
        400,
        "messages.0.content.1.text",
        "no text",
    ),
    ("chat", {"messages": [{"role": "narrator", "content": "x"}]}, 400, "messages.0.role", "'user'"),
    ("chat", {"messages": [{"role": "user"}]}, 400, "messages.0", "without content"),
    ("chat", {"messages": [{"role": "tool", "content": "x"}]}, 400, "messages.0", "tool_call_id"),
    ("chat", {"messages": ASK, "n": 0}, 400, "n", "greater than 0"),
    ("chat", {"messages": ASK, "n": 9}, 400, "n", "at most 8"),
    ("chat", {"messages": ASK, "top_logprobs": 2}, 400, "top_logprobs", "needs logprobs"),
    ("chat", {"messages": ASK, "logprobs": True, "top_logprobs": 21}, 400, "top_logprobs", "less than or equal to 20"),
    ("chat", {"messages": ASK, "logit_bias": {"1": 101}}, 400, "logit_bias.1", "less than or equal to 100"),
    ("chat", {"messages": ASK, "response_format": {"type": "xml"}}, 400, "response_format", "json_schema"),
    ("chat", {"messages": ASK, "response_format": {}}, 400, "response_format", "needs a type"),
    (
        "chat",
        {"messages": ASK, "response_format": {"type": "json_schema", "json_schema": {"name": "a"}}},
        400,
        "response_format",
        "must be a JSON schema",
    ),
    (
        "chat",
        {"messages": ASK, "response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "objekt"}}}},
        400,
        "response_format",
        "not valid",
    ),
]


def post(url: str, endpoint: str, body: Any) -> httpx2.Response:
    path = {"refine": "/v1/refine", "chat": "/v1/chat/completions"}[endpoint]
    content = body if isinstance(body, bytes) else json.dumps(body)
    return httpx2.post(url + path, content=content, headers={"Content-Type": "application/json"})


def test_each_bad_request_is_told_what_is_wrong(serve: Serve) -> None:
    url = serve()
    for endpoint, body, status, param, message in BAD:
        answer = post(url, endpoint, body)
        assert answer.status_code == status, (body, answer.text)
        error = answer.json()["error"]
        assert error["type"] == "invalid_request_error", body
        assert message in error["message"], (body, error)
        if param is not None:
            assert error["param"] == param, (body, error)


def test_a_streamed_request_is_refused_with_a_status_too(serve: Serve) -> None:
    url = serve()
    for endpoint, body, status, _, message in BAD:
        if not isinstance(body.get("stream"), bool) and body:
            answer = post(url, endpoint, {**body, "stream": True})
            assert answer.status_code == status, (body, answer.text)
            assert message in answer.json()["error"]["message"], body


def test_neutral_and_ignored_parameters_are_no_error(serve: Serve) -> None:
    extras = {"n": 1, "tools": [], "logprobs": False, "response_format": {"type": "text"}, "user": "me", "metadata": {}}
    extras |= {"stop": None, "seed": None, "tool_choice": None, "stream": None, "stream_options": None}
    assert post(serve(), "chat", {"messages": ASK, **extras}).status_code == 200


def test_invalid_json_is_a_clear_error(serve: Serve) -> None:
    url = serve()
    for body in (b'{"messages": ', b"", b"\xff\xfe", b"[1]", b"null"):
        answer = post(url, "chat", body)
        assert answer.status_code == 400, body
        assert answer.json()["error"]["type"] == "invalid_request_error"


def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(serve: Serve) -> None:
    url = serve()
    half = "\ud800"
    bodies: list[tuple[str, dict[str, Any]]] = [
        ("refine", {"prompt": half}),
        ("refine", {"prompt": "x", "draft": half, "rounds": 0}),
        ("refine", {"prompt": "x", half: 1}),
        ("chat", {"messages": ASK, half: 1}),
        ("chat", {"messages": ASK, "user": half}),
        ("chat", {"messages": ASK, "response_format": {"type": "json_object", half: 1}}),
        ("chat", {"messages": [{"role": "user", "content": [{"type": "text", "text": half}]}]}),
    ]
    for endpoint, body in bodies:
        for raw in (json.dumps(body).encode(), json.dumps(body, ensure_ascii=False).encode("utf-8", "surrogatepass")):
            answer = post(url, endpoint, raw)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error"), body
            assert "UTF-8" in answer.json()["error"]["message"]


def test_a_whole_surrogate_pair_is_a_character(serve: Serve) -> None:
    answer = post(serve(), "refine", b'{"prompt": "x", "rounds": 0, "draft": "\\ud83d\\ude00 \\\\ud800"}')
    assert answer.json()["output"] == "\U0001f600 \\ud800"


def test_a_body_over_the_limit_is_refused_by_length_and_while_it_arrives(serve: Serve) -> None:
    url = serve(limits={"body_bytes": 1000})
    body = json.dumps({"prompt": "x" * 2000}).encode()

    def pieces() -> Any:
        yield from (body[i : i + 100] for i in range(0, len(body), 100))

    for content in (body, pieces()):
        answer = httpx2.post(f"{url}/v1/refine", content=content)
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "request_too_large")
        assert "1000 bytes" in answer.json()["error"]["message"]


def test_a_body_that_is_not_declared_as_json_is_told_so(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/chat/completions", data={"messages": "x"})
    assert answer.status_code == 400
    assert "Content-Type: application/json" in answer.json()["error"]["message"]


def test_no_body_is_told_so(serve: Serve) -> None:
    url = serve()
    for body in (b"", b"null", b"[]", b"7"):
        error = httpx2.post(f"{url}/v1/chat/completions", content=body).json()["error"]
        assert "must be a JSON object" in error["message"], body


def test_unknown_routes_and_methods_get_the_same_error_object(serve: Serve) -> None:
    url = serve()
    assert httpx2.get(f"{url}/v2/refine").json()["error"]["message"] == "Not Found: GET /v2/refine"
    assert httpx2.get(f"{url}/v1/refine").status_code == 405


def test_a_bug_shows_no_internals(serve: Serve) -> None:
    def broken(turns: object) -> str:
        raise ZeroDivisionError("secret detail")

    answer = post(serve(FakeEngine(broken)), "refine", {"prompt": "x"})
    assert answer.status_code == 500
    assert answer.json()["error"]["code"] == "internal_error"
    assert "secret" not in answer.text
    assert answer.headers["x-request-id"] in answer.text
