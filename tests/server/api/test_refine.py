"""`POST /v1/refine`: JSON, typed events, headers, disconnects."""

import json

import httpx2
import pytest
from pydantic import TypeAdapter

from slhf.wire import Event, RefinementCompleted, RefineResponse
from slhf_server.errors import EngineFailed
from slhf_server.models.fake import FakeEngine
from tests.conftest import Serve


def events(answer: httpx2.Response) -> list[Event]:
    """The typed events of a streamed answer; checks that `event:` names the type."""
    found = []
    for block in answer.text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            found.append(TypeAdapter[Event](Event).validate_json(data.removeprefix("data: ")))
            assert name == f"event: {found[-1].type}"
    return found


def test_the_answer_holds_every_round_and_usage_is_their_sum(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "what is it", "rounds": 2})
    result = RefineResponse.model_validate(answer.json())
    assert result.output == "better better draft of: what is it"
    assert [r.text for r in result.refinement.rounds][-1] == result.output
    assert [r.role for r in result.refinement.rounds] == ["leader", "follower", "follower"]
    assert result.usage == result.refinement.usage.total()
    assert result.id.startswith("refine-")
    assert result.object == "refinement"
    assert [r.edit_ratio for r in result.refinement.rounds] == [None, pytest.approx(1 / 11), pytest.approx(1 / 13)]


def test_headers_tell_what_happened(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "x", "draft": "d"}, headers={"X-Request-Id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.headers["x-slhf-applied"] == "true"
    assert answer.headers["x-slhf-rounds"] == "1"
    assert answer.headers["x-slhf-stop-reason"] == "rounds_done"
    assert 0 <= float(answer.headers["x-slhf-overhead-ms"]) <= float(answer.headers["x-slhf-duration-ms"])


def test_an_unsafe_request_id_is_replaced(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "x"}, headers={"X-Request-Id": "a b"})
    assert answer.headers["x-request-id"] != "a b"


def test_rounds_are_left_out_when_not_wanted(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "x", "return_rounds": False})
    assert answer.json()["refinement"]["rounds"] == []


def test_no_rounds_return_the_draft_byte_for_byte(serve: Serve) -> None:
    draft = " \r\n\u2028e\u0301 <|im_end|>\x00"
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "x", "draft": draft, "rounds": 0})
    assert answer.json()["output"] == draft
    assert answer.headers["x-slhf-stop-reason"] == "disabled"


def test_an_instruction_is_appended_to_the_followers_turn(serve: Serve) -> None:
    engine = FakeEngine()
    httpx2.post(f"{serve(engine)}/v1/refine", json={"prompt": "x", "draft": "d", "instruction": "Be kind."})
    turns, _ = engine.follower.calls[0]
    assert turns[-1].text.endswith("original response.\nBe kind.")


def test_sampling_wishes_reach_both_roles(serve: Serve) -> None:
    engine = FakeEngine()
    httpx2.post(f"{serve(engine)}/v1/refine", json={"prompt": "x", "temperature": 0.5, "max_tokens": 7})
    for role in (engine.leader, engine.follower):
        assert (role.calls[0][1].temperature, role.calls[0][1].max_tokens) == (0.5, 7)


def test_a_stream_is_typed_events_that_end_with_the_whole_result(serve: Serve) -> None:
    answer = httpx2.post(f"{serve()}/v1/refine", json={"prompt": "a b", "draft": "d", "rounds": 2, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["cache-control"] == "no-cache, no-transform"
    assert answer.headers["x-accel-buffering"] == "no"
    found = events(answer)
    assert [e.type for e in found if e.type != "round.delta"] == [
        "round.completed",
        "round.started",
        "round.completed",
        "round.started",
        "round.completed",
        "refinement.completed",
    ]
    last = found[-1]
    assert isinstance(last, RefinementCompleted)
    streamed = "".join(e.delta for e in found if e.type == "round.delta" and e.round == 2)
    assert streamed == last.output == "better better d"


def test_an_error_after_the_first_byte_is_an_error_event(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: ("half a text", EngineFailed("boom")), token_seconds=0.05)
    answer = httpx2.post(f"{serve(engine)}/v1/refine", json={"prompt": "x", "stream": True})
    assert answer.status_code == 200
    last = json.loads(answer.text.strip().split("\n")[-1].removeprefix("data: "))
    assert (last["type"], last["error"]["message"]) == ("error", "boom")


def test_a_stream_that_waits_in_the_queue_is_answered_in_the_end(serve: Serve) -> None:
    url = serve(FakeEngine(lambda turns: "one two", token_seconds=0.2), limits={"running": 1})
    with httpx2.stream("POST", f"{url}/v1/refine", json={"prompt": "x", "stream": True}) as first:
        second = httpx2.post(f"{url}/v1/refine", json={"prompt": "x", "stream": True})
        first.read()
    assert events(first)[-1].type == events(second)[-1].type == "refinement.completed"


def test_a_round_cut_by_the_requests_deadline_is_billed_by_the_token(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: "one two three four five six", token_seconds=0.1)
    body = {"prompt": "x", "draft": "d", "timeout_ms": 350}
    usage = httpx2.post(f"{serve(engine)}/v1/refine", json=body).json()["refinement"]["usage"]
    assert 0 < usage["rounds"][0]["completion_tokens"] < 6


def test_nulls_are_not_given(serve: Serve) -> None:
    body = {"prompt": "x", "messages": None, "draft": None, "rounds": None, "on_error": None, "stream": None}
    assert httpx2.post(f"{serve()}/v1/refine", json=body).json()["output"] == "better draft of: x"


def test_silence_is_filled_with_pings(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: "one", token_seconds=0.3)
    url = serve(engine, ping_interval_s=0.02)
    answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "x", "stream": True})
    assert answer.text.count(": ping\n\n") > 3
    assert events(answer)[-1].type == "refinement.completed"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_takes_its_generation_with_it(serve: Serve, stream: bool) -> None:
    engine = FakeEngine(lambda turns: "one two three", token_seconds=0.4)
    url = serve(engine)
    with pytest.raises(httpx2.ReadTimeout):
        with httpx2.stream("POST", f"{url}/v1/refine", json={"prompt": "x", "stream": stream}, timeout=0.3) as answer:
            answer.read()
    for _ in range(100):
        if 'slhf_num_requests_running{model_name="fake"} 0.0' in _metrics(url) and not engine.leader.running:
            break
    assert engine.leader.running == 0
    assert engine.follower.calls == []


def _metrics(url: str) -> str:
    return httpx2.get(f"{url}/metrics").text


def test_the_queue_is_bounded_and_says_when_to_come_back(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=0.5), limits={"running": 1, "waiting": 0})
    with httpx2.Client() as client, httpx2.stream("POST", f"{url}/v1/refine", json={"prompt": "x", "stream": True}):
        answer = client.post(f"{url}/v1/refine", json={"prompt": "x"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(answer.headers["retry-after"]) >= 1


def test_a_deadline_in_the_queue_is_an_answer_too(serve: Serve) -> None:
    url = serve(FakeEngine(token_seconds=0.5), limits={"running": 1})
    with httpx2.stream("POST", f"{url}/v1/refine", json={"prompt": "x", "stream": True}):
        late = httpx2.post(f"{url}/v1/refine", json={"prompt": "x", "timeout_ms": 100})
        kept = httpx2.post(f"{url}/v1/refine", json={"prompt": "x", "timeout_ms": 100, "draft": "mine"})
    assert (late.status_code, late.json()["error"]["code"]) == (504, "deadline_exceeded")
    assert (kept.json()["output"], kept.json()["refinement"]["stop_reason"]) == ("mine", "deadline")
