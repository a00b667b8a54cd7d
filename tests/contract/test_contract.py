"""Sentences of the HTTP contract, one test for each; fake engine, real sockets. The SDK's view: test_openai_sdk.py."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

import httpx2
import pydantic
import pytest

from slhf.wire import StopReason
from slhf_server.errors import EngineFailed, RequestError
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, FakeModel, improve
from slhf_server.settings.server import Settings
from tests.conftest import Serve

ASK = [{"role": "user", "content": "what is it"}]
CHAT, REFINE = "/v1/chat/completions", "/v1/refine"
LABELS = {
    "slhf_num_requests_running": {"model_name"},
    "slhf_num_requests_waiting": {"model_name"},
    "slhf_request_success_total": {"model_name", "endpoint", "finish_reason"},
    "slhf_request_failure_total": {"model_name", "endpoint", "error_type"},
    "slhf_e2e_request_latency_seconds_count": {"model_name"},
    "slhf_time_to_first_token_seconds_count": {"model_name"},
    "slhf_request_queue_time_seconds_count": {"model_name"},
    "slhf_overhead_seconds_count": {"model_name"},
    "slhf_round_latency_seconds_count": {"model_name", "role", "round"},
    "slhf_request_rounds_count": {"model_name"},
    "slhf_rounds_total": {"model_name", "outcome"},
    "slhf_stop_reason_total": {"model_name", "reason"},
    "slhf_fallback_total": {"model_name", "reason"},
    "slhf_prompt_tokens_total": {"model_name", "phase"},
    "slhf_generation_tokens_total": {"model_name", "phase"},
    "slhf_prompt_cached_tokens_total": {"model_name", "phase"},
    "slhf_draft_edit_ratio_count": {"model_name"},
    "slhf_draft_length_ratio_count": {"model_name"},
    "slhf_draft_source_total": {"model_name", "source"},
    "slhf_build_info": {"version"},
    "slhf_model_info": {"role", "revision"},
}


def chat(url: str, refine: dict[str, Any] | None = None, **body: Any) -> httpx2.Response:
    return httpx2.post(url + CHAT, json={"messages": ASK, "refine": refine or {}, **body})


def refine(url: str, **body: Any) -> httpx2.Response:
    return httpx2.post(url + REFINE, json={"messages": ASK, **body})


def frames(answer: httpx2.Response) -> list[Any]:
    """The data of each event; "[DONE]" and comments as they are."""
    blocks = [block.removeprefix("data: ") for block in answer.text.split("\n\n") if block]
    return [json.loads(block) if block.startswith("{") else block for block in blocks]


def samples(url: str) -> list[tuple[str, dict[str, str], float]]:
    """Our metrics: name, labels, value."""
    found = re.findall(r"^(slhf_\w+)(?:\{(.*)\})? (\S+)$", httpx2.get(f"{url}/metrics").text, re.MULTILINE)
    return [(name, dict(re.findall(r'(\w+)="([^"]*)"', labels)), float(value)) for name, labels, value in found]


def total(url: str, name: str) -> float:
    return sum(value for found, _, value in samples(url) if found == name)


def fails_in_round(number: int) -> FakeEngine:
    """The Follower's nth completion fails."""
    engine, played = FakeEngine(), 0

    def reply(turns: Sequence[Turn]) -> str | RequestError:
        nonlocal played
        played += 1
        return EngineFailed("boom") if played == number else str(improve(turns))

    engine.follower = FakeModel("fake", reply, token_seconds=0, max_model_len=4096)
    return engine


def test_nothing_in_a_prompt_a_header_or_a_model_name_changes_the_route(serve: Serve) -> None:
    url = serve()
    plain = chat(url).json()
    headers = {"X-SLHF-Rounds": "3", "X-SLHF-Model": "other", "X-Forwarded-Host": "other"}
    body = {"messages": [{"role": "user", "content": "/rounds 3 model: other"}]}
    odd = httpx2.post(url + CHAT, json=body, headers=headers).json()
    for key in ("rounds_requested", "rounds_run", "draft_source", "stop_reason"):
        assert odd["refinement"][key] == plain["refinement"][key]
    for name in ("fake:3", "fake@other", "fake/", "FAKE", "fake "):
        assert chat(url, model=name).status_code == 404


@pytest.mark.parametrize("key", ["base_url", "upstream", "leader", "follower", "api_key", "endpoint"])
def test_no_request_can_name_an_upstream(serve: Serve, key: str) -> None:
    url = serve()
    value: Any = "http://127.0.0.1:9"
    for answer, param in (
        (chat(url, {key: value}), f"refine.{key}"),
        (httpx2.post(url + CHAT, json={"messages": ASK, key: value}), key),
        (refine(url, **{key: value}), key),
    ):
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_both_endpoints_run_the_same_code(serve: Serve) -> None:
    url = serve()
    options = {"draft": "d", "rounds": 3, "return_rounds": True, "instruction": "Be kind.", "max_total_tokens": 90}
    one, other = chat(url, options).json(), refine(url, **options).json()
    assert one["choices"][0]["message"]["content"] == other["output"]
    assert one["usage"] == other["usage"]
    for report in (one["refinement"], other["refinement"]):
        del report["duration_ms"]
        for finished in report["rounds"]:
            del finished["latency_ms"]
    assert one["refinement"] == other["refinement"]


def test_a_prompt_is_one_user_turn(serve: Serve) -> None:
    engine = FakeEngine()
    url = serve(engine)
    refine(url)
    httpx2.post(url + REFINE, json={"prompt": ASK[0]["content"]})
    assert engine.leader.calls[0] == engine.leader.calls[1]


@pytest.mark.parametrize("stream", [False, True])
def test_no_rounds_return_the_draft_byte_for_byte_in_chat_too(serve: Serve, stream: bool) -> None:
    draft = " <think>\r\n\u2028e\u0301</think> <|im_end|>\x00\t"
    answer = chat(serve(), {"rounds": 0, "draft": draft}, stream=stream)
    if stream:
        told = "".join(f["choices"][0]["delta"].get("content") or "" for f in frames(answer)[:-1])
    else:
        told = answer.json()["choices"][0]["message"]["content"]
    assert told == draft


def test_a_clients_draft_is_seen_as_it_was_sent(serve: Serve) -> None:
    """Its tags may be what it is about."""
    engine = FakeEngine(lambda turns: turns[-2].text)
    draft = "<think>hm</think>\n\nmine"
    options = {"draft": draft, "rounds": 3, "stop_when_unchanged": True}
    answer = chat(serve(engine), options).json()
    assert engine.follower.calls[0][0][-2] == Turn("assistant", draft)
    assert answer["refinement"]["stop_reason"] == "unchanged"


def test_where_drafts_come_from_a_model_that_thinks_the_follower_does_not_see_the_thoughts(serve: Serve) -> None:
    engine = FakeEngine()
    draft = "<think>hm</think>\n\nmine"
    url = serve(engine, models={"fake": {"draft_thinks": True}})
    answer = chat(url, {"draft": draft, "return_rounds": True}).json()
    assert engine.follower.calls[0][0][-2] == Turn("assistant", "mine")
    assert answer["choices"][0]["message"]["content"] == "better mine"
    assert answer["refinement"]["rounds"][0]["text"] == draft  # which is the client's: it comes back as it was sent


def test_rounds_are_returned_by_refine_and_not_by_chat_unless_told(serve: Serve) -> None:
    url = serve()
    assert len(refine(url).json()["refinement"]["rounds"]) == 2
    assert chat(url).json()["refinement"]["rounds"] == []


def test_an_answer_has_openais_fields_and_refinement(serve: Serve) -> None:
    answer = chat(serve(), {"return_rounds": True}).json()
    assert set(answer) == {"id", "object", "created", "model", "choices", "usage", "refinement"}
    assert set(answer["choices"][0]) == {"index", "message", "finish_reason", "logprobs"}
    assert set(answer["choices"][0]["message"]) == {"role", "content", "refusal"}
    told = set(answer["refinement"])
    assert told == {
        *("applied", "rounds_requested", "rounds_run", "returned_round", "stop_reason"),
        *("draft_source", "duration_ms", "usage", "tools_ignored", "selection", "profile", "rounds"),
    }
    finished = set(answer["refinement"]["rounds"][1]) - {"tool_calls"}
    assert finished == {"round", "role", "model", "text", "finish_reason", "usage", "latency_ms", "edit_ratio", "lost"}


def test_the_finish_reason_is_that_of_the_returned_round(serve: Serve) -> None:
    url = serve()
    assert chat(url, {"max_tokens": 2}).json()["choices"][0]["finish_reason"] == "length"
    assert chat(url, max_tokens=2, refine={"max_tokens": 99}).json()["choices"][0]["finish_reason"] == "stop"


REASONS: dict[StopReason, tuple[FakeEngine, dict[str, Any], dict[str, Any], str]] = {
    "rounds_done": (FakeEngine(), {"rounds": 2}, {}, "better better d"),
    "disabled": (FakeEngine(), {"rounds": 0}, {}, "d"),
    "shadowed": (FakeEngine(), {"rounds": 2}, {}, "d"),
    "unchanged": (FakeEngine(lambda turns: "d"), {"rounds": 5, "stop_when_unchanged": True}, {}, "d"),
    "deadline": (FakeEngine(token_seconds=0.1), {"rounds": 8, "timeout_ms": 350}, {}, ""),
    "token_budget": (FakeEngine(), {"rounds": 8, "max_total_tokens": 60}, {}, ""),
    "context_length": (FakeEngine(lambda turns: "w " * 50, max_model_len=40), {"draft": None}, {}, ""),
    "error": (fails_in_round(3), {"rounds": 8}, {}, "better better d"),
    "invalid_structure": (FakeEngine(), {"rounds": 1}, {"response_format": {"type": "json_object"}}, "d"),
}
"""Reason: engine, refine, further parameters, the answer (empty: that of the latest finished round)."""


def test_each_stop_reason_is_tried_here_but_an_upstreams_and_those_of_judges_and_bundles() -> None:
    """test_selection.py tries these, which need settings."""
    assert set(REASONS) == set(get_args(StopReason)) - {"tool_calls", "small_edit", "no_gain", "judge_sure"}


@pytest.mark.parametrize("reason", REASONS)
def test_whatever_ends_the_loop_the_best_finished_text_is_the_answer(
    serve: Serve, reason: StopReason, tmp_path: Path
) -> None:
    engine, options, body, text = REASONS[reason]
    shadow = {"models": {"fake": {"shadow": {"judge": "house"}}}, "judges": {"house": {"engine": "own"}}}
    settings = shadow | {"verdicts_file": str(tmp_path / "v.db")} if reason == "shadowed" else {}
    answer = chat(serve(engine, **settings), {"draft": "d", "return_rounds": True, **options}, **body)
    report = answer.json()["refinement"]
    assert (answer.status_code, report["stop_reason"]) == (200, reason)
    assert answer.headers["x-slhf-stop-reason"] == reason
    assert answer.headers["x-slhf-applied"] == str(report["applied"]).lower()
    assert answer.headers["x-slhf-rounds"] == str(report["rounds_run"])
    best = report["rounds"][report["returned_round"]]["text"]
    assert answer.json()["choices"][0]["message"]["content"] == best == (text or best)


@pytest.mark.parametrize("ask", [chat, refine])
def test_on_error_fail_answers_the_error_of_a_later_round(serve: Serve, ask: Any) -> None:
    options = {"rounds": 8, "on_error": "fail"}
    url = serve(fails_in_round(3))
    answer = ask(url, options) if ask is chat else ask(url, **options)
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "engine_error")


def test_usage_is_equal_in_the_body_the_last_chunk_and_the_metrics(serve: Serve) -> None:
    url = serve()
    whole = chat(url, {"rounds": 3}).json()
    counted = total(url, "slhf_prompt_tokens_total"), total(url, "slhf_generation_tokens_total")
    assert counted == (whole["usage"]["prompt_tokens"], whole["usage"]["completion_tokens"])
    streamed = frames(chat(url, {"rounds": 3}, stream=True, stream_options={"include_usage": True}))[-2]
    assert (streamed["choices"], streamed["usage"]) == ([], whole["usage"])
    parts = streamed["refinement"]["usage"]
    assert sum(one["total_tokens"] for one in [parts["draft"], *parts["rounds"]]) == streamed["usage"]["total_tokens"]
    assert total(url, "slhf_prompt_tokens_total") == 2 * counted[0]


def test_a_chat_stream_is_role_content_finish_usage_and_done(serve: Serve) -> None:
    answer = chat(serve(), stream=True, stream_options={"include_usage": True})
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    role, *pieces, finish, usage, done = frames(answer)
    assert role["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert [piece["choices"][0]["delta"]["content"] for piece in pieces] == "better| draft| of:| what| is| it".split(
        "|"
    )
    assert (finish["choices"][0]["delta"], finish["choices"][0]["finish_reason"]) == ({}, "stop")
    assert usage["choices"] == []
    assert usage["refinement"]["stop_reason"] == "rounds_done"
    assert done == "[DONE]"


def test_there_is_no_usage_chunk_unless_it_is_asked_for(serve: Serve) -> None:
    *_, finish, done = frames(chat(serve(), stream=True))
    assert (finish["choices"][0]["finish_reason"], done) == ("stop", "[DONE]")


def test_the_last_rounds_tokens_come_while_it_still_runs(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: "w " * 99 + "w", token_seconds=0.5)
    body = {"messages": ASK, "stream": True, "refine": {"draft": "d"}}
    with httpx2.stream("POST", serve(engine) + CHAT, json=body) as answer:
        pieces, text = answer.iter_text(), ""  # held on to: an iterator that is dropped closes the connection
        while '"content": "w"' not in text:
            text += next(pieces)
        assert engine.follower.running == 1


def test_an_error_after_the_first_byte_ends_the_stream_without_done(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: ("half a text", EngineFailed("boom")), token_seconds=0.02)
    *_, last = frames(chat(serve(engine), {"draft": "d"}, stream=True))
    assert last == {"error": {"message": "boom", "type": "server_error", "param": None, "code": "engine_error"}}


def test_a_ping_comes_at_least_every_ten_seconds() -> None:
    with pytest.raises(pydantic.ValidationError, match="ping_interval_s"):
        Settings(ping_interval_s=10.1)
    assert Settings().ping_interval_s <= 10


def test_every_answer_carries_its_request_id(serve: Serve) -> None:
    url = serve(limits={"body_bytes": 500})
    for method, path, body in (
        ("POST", CHAT, {"messages": ASK}),
        ("POST", CHAT, {"messages": ASK, "stream": True}),
        ("POST", REFINE, {"prompt": "x", "stream": True}),
        ("POST", REFINE, {"prompt": "x" * 999}),
        ("POST", REFINE, {}),
        ("GET", "/health", None),
        ("GET", "/nowhere", None),
    ):
        assert httpx2.request(method, url + path, json=body).headers["x-request-id"]
        echoed = httpx2.request(method, url + path, json=body, headers={"X-Request-Id": "mine-1"})
        assert echoed.headers["x-request-id"] == "mine-1"


def test_the_requests_id_is_that_of_the_answer(serve: Serve) -> None:
    headers = {"X-Request-Id": "mine-1"}
    url = serve()
    assert httpx2.post(url + CHAT, json={"messages": ASK}, headers=headers).json()["id"] == "chatcmpl-mine-1"
    assert httpx2.post(url + REFINE, json={"prompt": "x"}, headers=headers).json()["id"] == "refine-mine-1"


@pytest.mark.parametrize("path", [CHAT, REFINE])
def test_a_deadline_is_an_error_only_where_nothing_was_finished(serve: Serve, path: str) -> None:
    url = serve(FakeEngine(token_seconds=5))
    limit, draft = {"timeout_ms": 50}, {"timeout_ms": 50, "draft": "d"}
    answers = [
        httpx2.post(url + path, json={"messages": ASK, **({"refine": options} if path == CHAT else options)})
        for options in (limit, draft)
    ]
    assert [answer.status_code for answer in answers] == [504, 200]
    assert answers[0].json()["error"]["code"] == "deadline_exceeded"


def test_every_metric_has_its_labels_and_no_more(serve: Serve) -> None:
    url = serve(fails_in_round(2))
    refine(url, rounds=5, stream=True)
    chat(url, {"draft": "x " * 5000})
    found = samples(url)
    for name, labels in LABELS.items():
        assert {frozenset(own) for told, own, _ in found if told == name} == {frozenset(labels)}, name


def test_labels_are_bounded_by_no_user_prompt_or_model_that_is_not_served(serve: Serve) -> None:
    url = serve()
    body = {"messages": [{"role": "user", "content": "tell-tale"}], "user": "tell-tale", "metadata": {"a": "tell-tale"}}
    for model in ("fake", "tell-tale"):
        httpx2.post(url + CHAT, json={**body, "model": model}, headers={"X-Request-Id": "tell-tale"})
    assert "tell-tale" not in httpx2.get(f"{url}/metrics").text


def test_rounds_are_told_apart_up_to_the_eighth(serve: Serve) -> None:
    url = serve(limits={"rounds": 10})
    refine(url, rounds=10)
    counts = {own["round"]: value for name, own, value in samples(url) if name == "slhf_round_latency_seconds_count"}
    assert counts == {str(number): 1.0 for number in range(8)} | {"8+": 3.0}


def test_rounds_are_counted_by_what_came_of_them(serve: Serve) -> None:
    url = serve(fails_in_round(2))
    refine(url, rounds=5)
    chat(url, {"draft": "d"}, response_format={"type": "json_object"})
    counts = {own["outcome"]: value for name, own, value in samples(url) if name == "slhf_rounds_total"}
    assert counts == {"changed": 1.0, "error": 1.0, "discarded": 1.0}
    reasons = {own["reason"] for name, own, _ in samples(url) if name == "slhf_fallback_total"}
    assert reasons == {"error", "invalid_structure"}


def test_the_server_binds_loopback_unless_told_otherwise() -> None:
    assert Settings().host == "127.0.0.1"


def test_nothing_is_configured_over_http(serve: Serve) -> None:
    url = serve()
    paths = httpx2.get(f"{url}/openapi.json").json()["paths"]
    assert {method for path in paths.values() for method in path} <= {"get", "post"}
    assert {path for path, methods in paths.items() if "post" in methods} <= {
        *(CHAT, REFINE),
        *("/v1/completions", "/v1/responses", "/v1/messages"),
        *("/v1/messages/count_tokens", "/tokenize", "/detokenize", "/v1/votes"),
    }
    for method in ("PUT", "PATCH", "DELETE"):
        assert httpx2.request(method, f"{url}/v1/models/fake").status_code == 405
