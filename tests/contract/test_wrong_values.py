"""An error's `param` is a place in what the client sent, on every endpoint; null is a key that is not there."""

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings
from tests.conftest import running
from tests.contract.bodies import BODIES, at, param_of, paths

each_endpoint = pytest.mark.parametrize("endpoint", BODIES)
WRONG: list[Any] = [
    *(None, True, 0, -1, 5, 10**20, 1.5, "", "x", "x" * 5_000, [], [5], ["x"], [[]], [None]),
    *({}, {"x": 1}, {"type": "x"}, {"type": "json_schema", "json_schema": {}}, {"type": "x" * 5_000}),
    *({"role": "user"}, {"role": "assistant", "content": "x"}, {"role": "user", "content": [{"type": "image_url"}]}),
]


@pytest.fixture(scope="module")
def engine() -> FakeEngine:
    return FakeEngine(lambda turns: "{}")


@pytest.fixture(scope="module")
def url(engine: FakeEngine) -> Iterator[str]:
    with running(create_app(Settings(), engine.open)) as base:
        yield base


def is_in(body: Any, param: str) -> bool:
    """Whether the place, or the object in which its last key is missing, is in the body. Keys may hold dots."""
    for key, inner in body.items() if isinstance(body, dict) else ((str(i), v) for i, v in enumerate(body)):
        if param == key or (param.startswith(f"{key}.") and is_in(inner, param.removeprefix(f"{key}."))):
            return True
    return isinstance(body, dict) and param.isidentifier()


@each_endpoint
def test_each_body_is_one_that_the_server_takes(url: str, endpoint: str) -> None:
    answer = httpx2.post(url + endpoint, json=BODIES[endpoint])
    assert answer.status_code == 200, answer.text


@each_endpoint
def test_what_is_wrong_is_named_as_the_client_wrote_it_and_not_repeated(url: str, endpoint: str) -> None:
    """Each wrong value in each place."""
    with httpx2.Client() as client:
        for place, wrong in itertools.product(list(paths(BODIES[endpoint]))[1:], WRONG):
            body = copy.deepcopy(BODIES[endpoint])
            at(body, place[:-1])[place[-1]] = wrong
            answer = client.post(url + endpoint, json=body)
            assert answer.status_code in (200, 400, 404), answer.text
            if answer.status_code != 200:
                error = answer.json()["error"]
                neither = "exactly one" in error["message"]
                assert neither or ((param := param_of(error)) and is_in(body, param)), (place, wrong, error)
                assert len(answer.content) < 3_000


@each_endpoint
@pytest.mark.parametrize("key", ["." * 1_000_000, "x" * 1_000_000, "a.b", ""])
def test_an_unknown_key_of_any_shape_is_refused_at_once_and_shortly(url: str, endpoint: str, key: str) -> None:
    for body in (BODIES[endpoint] | {key: 1}, BODIES[endpoint] | {"refine": {key: 1}}):
        answer = httpx2.post(url + endpoint, json=body, timeout=20)
        assert answer.status_code == 400
        assert len(answer.content) < 3_000


@each_endpoint
def test_a_null_is_a_key_that_is_not_there_at_every_depth(url: str, engine: FakeEngine, endpoint: str) -> None:
    with httpx2.Client() as client:

        def answer(body: Any) -> tuple[int, Any]:
            seen = len(engine.leader.calls), len(engine.follower.calls)
            status = client.post(url + endpoint, json=body).status_code
            return status, [engine.leader.calls[seen[0] :], engine.follower.calls[seen[1] :]]

        for place in list(paths(BODIES[endpoint]))[1:]:
            if isinstance(place[-1], str):
                without, nulled = copy.deepcopy(BODIES[endpoint]), copy.deepcopy(BODIES[endpoint])
                del at(without, place[:-1])[place[-1]]
                at(nulled, place[:-1])[place[-1]] = None
                assert read(answer(nulled)) == read(answer(without)), place


@each_endpoint
def test_a_null_beside_anything_changes_nothing(url: str, endpoint: str) -> None:
    with httpx2.Client() as client:
        for place in paths(BODIES[endpoint]):
            body = copy.deepcopy(BODIES[endpoint])
            if isinstance(at(body, place), dict) and place[-1:] not in (("schema",), ("tools",)):
                at(body, place)["another"] = None
                answer = client.post(url + endpoint, json=body)
                assert answer.status_code == 200, (place, answer.text)


def read(answer: tuple[int, Any]) -> str:
    """What models were shown, apart from the messages as they came (only an upstream reads these)."""
    status, calls = answer
    shown = [[[(turn.role, turn.text) for turn in turns] for turns, _ in role] for role in calls]
    return json.dumps([status, shown])


MESSAGE: dict[str, Any] = {"max_tokens": 9, "messages": [{"role": "user", "content": "x"}]}
FORMAT: dict[str, Any] = {"type": "json_schema", "schema": {"type": "x"}}
LATER: list[tuple[str, dict[str, Any], str]] = [
    ("/v1/refine", {"prompt": "word " * 5_000}, "prompt"),
    ("/v1/refine", {"messages": [{"role": "user", "content": "word " * 5_000}]}, "messages"),
    ("/v1/refine", {"prompt": "x", "rounds": 99}, "rounds"),
    ("/v1/chat/completions", {"messages": [{"role": "user", "content": "word " * 5_000}]}, "messages"),
    ("/v1/chat/completions", {"messages": [], "refine": {}}, "messages"),
    ("/v1/completions", {"prompt": "word " * 5_000}, "prompt"),
    ("/v1/responses", {"input": "word " * 5_000}, "input"),
    ("/v1/responses", {"input": []}, "input"),
    ("/v1/responses", {"input": [{"role": "assistant", "content": "x"}]}, "input"),
    (
        "/v1/responses",
        {
            "instructions": "i",
            "input": [
                {"type": "reasoning", "summary": []},
                {"role": "user", "content": [{"type": "input_image", "image_url": "u"}]},
            ],
        },
        "input.1.content.0.type",
    ),
    ("/v1/responses", {"input": "x", "text": {"format": {"type": "json_schema", "name": "a"}}}, "text.format"),
    (
        "/v1/responses",
        {"input": "x", "text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "objekt"}}}},
        "text.format",
    ),
    ("/v1/messages", MESSAGE | {"messages": [{"role": "user", "content": "word " * 5_000}]}, "messages"),
    ("/v1/messages", MESSAGE | {"messages": []}, "messages"),
    (
        "/v1/messages",
        MESSAGE | {"output_config": {"format": FORMAT}},
        "output_config.format",
    ),
    ("/v1/messages", MESSAGE | {"output_config": {"effort": "low"}}, "output_config.effort"),
    ("/v1/messages", MESSAGE | {"tools": [{"name": "f"}, {"name": "f"}]}, "tools.1.name"),
    ("/v1/messages", MESSAGE | {"tool_choice": {"type": "any"}}, "tool_choice"),
    ("/v1/messages", MESSAGE | {"thinking": {"type": "enabled", "budget_tokens": 9}}, "thinking"),
    *(("/v1/messages", MESSAGE | {"refine": {name: 10**9}}, f"refine.{name}") for name in ("rounds", "timeout_ms")),
    *(
        (endpoint, {key: "x", "refine": {name: 10**9}}, f"refine.{name}")
        for endpoint, key in (("/v1/completions", "prompt"), ("/v1/responses", "input"))
        for name in ("rounds", "timeout_ms", "max_total_tokens")
    ),
    *(
        (endpoint, {key: "x", "refine": {"show_rounds": True}}, "refine.show_rounds")
        for endpoint, key in (("/v1/completions", "prompt"), ("/v1/responses", "input"))
    ),
]


@pytest.mark.parametrize(
    ("endpoint", "body", "param", "message"),
    [
        ("/v1/completions", {"prompt": ["a", "b"]}, "prompt", "at most 1 item"),
        ("/v1/completions", {"prompt": [5]}, "prompt.0", "string"),
        ("/v1/completions", {"prompt": "x", "stop": ["a", 5]}, "stop.1", "string"),
        ("/v1/completions", {"prompt": "x", "stop": ["a"] * 17}, "stop", "at most 16 items"),
        ("/v1/responses", {"input": 5}, "input", "string"),
    ],
)
def test_an_error_speaks_of_what_the_value_was_meant_to_be(
    url: str, endpoint: str, body: dict[str, Any], param: str, message: str
) -> None:
    error = httpx2.post(url + endpoint, json=body).json()["error"]
    assert error["param"] == param
    assert message in error["message"]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("endpoint", "body", "param"), LATER)
def test_what_is_found_later_is_named_as_the_client_wrote_it(
    url: str, endpoint: str, body: dict[str, Any], param: str, stream: bool
) -> None:
    answer = httpx2.post(url + endpoint, json=body | {"stream": stream})
    error = answer.json()["error"]
    assert answer.status_code == 400
    assert str(param_of(error)).startswith(param)
    assert "response_format" not in error["message"] or endpoint not in ("/v1/responses", "/v1/messages")


def test_what_is_found_in_a_stream_that_has_begun_is_named_so_too(url: str) -> None:
    """The draft fits, and the Follower's second prompt, with its own long answer, does not."""
    engine = FakeEngine(lambda turns: "word " * 200 if len(turns) < 3 else "w " * 200, max_model_len=250)
    with running(create_app(Settings(), engine.open)) as base:
        for endpoint, body in (
            ("/v1/refine", {"prompt": "x", "on_error": "fail"}),
            ("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "refine": {"on_error": "fail"}}),
            ("/v1/completions", {"prompt": "x", "max_tokens": 240, "refine": {"on_error": "fail"}}),
            ("/v1/responses", {"input": "x", "refine": {"on_error": "fail"}}),
        ):
            body = body | {"rounds": 3, "instruction": "w " * 60} if endpoint == "/v1/refine" else body
            if "refine" in body:
                body["refine"] |= {"rounds": 3, "instruction": "w " * 60}  # type: ignore[operator]
            text = httpx2.post(base + endpoint, json=body | {"stream": True}).text
            key = next(name for name in ("prompt", "messages", "input") if name in body)
            assert f'"param":"{key}"' in text.replace('": "', '":"'), text[-500:]
