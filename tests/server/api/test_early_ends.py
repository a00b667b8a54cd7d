"""Streams end as the contract says: cut by a limit, by a blank round, by a bug of ours; and nobody works for nobody."""

import asyncio
import json
import logging
from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import httpx2
import pytest
from prometheus_client import Counter
from starlette.types import Message

from slhf.history import Message as ChatMessage
from slhf.wire import ErrorBody, RefineOptions, RoundDelta
from slhf_server.api.streaming import stream
from slhf_server.app import create_app
from slhf_server.errors import DeadlineExceeded, EngineFailed
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.fake import FakeEngine, Said
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.planner import RefineParams
from slhf_server.service import Service
from slhf_server.settings.server import Settings
from tests.conftest import Serve, until
from tests.server.conftest import Play, eventually

Body = dict[str, Any]
CHAT = [{"role": "user", "content": "what is it"}]
WORDS = "w " * 400
BLANK = [
    "",
    "  ",
    "\n\t",
    "\u200b",
    "\ufeff \u2060\n",
    "<think>hm</think>",
    "<think>hm</think>\n\n ",
    "<think>on and on",
]
STABLE = ("stop_reason", "applied", "rounds_run", "returned_round")
ENDPOINTS = ["chat/completions", "completions", "responses", "messages", "refine"]


def body_of(endpoint: str, **options: Any) -> Body:
    if endpoint == "refine":
        return {"prompt": "what is it", "stream": True, **options}
    usage: Body = {"stream_options": {"include_usage": True}}
    bodies: dict[str, Body] = {
        "chat/completions": usage | {"messages": CHAT},
        "completions": usage | {"prompt": "what is it", "max_tokens": 1000},
        "responses": {"input": "what is it"},
        "messages": {"messages": CHAT, "max_tokens": 1000},
    }
    return bodies[endpoint] | {"stream": True, "refine": options}


def events(url: str, endpoint: str, body: Body) -> list[Any]:
    """The data of every frame; "[DONE]" as it stands."""
    text = httpx2.post(f"{url}/v1/{endpoint}", json=body, timeout=30).text
    datas = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [data if data == "[DONE]" else json.loads(data) for data in datas]


def without_stream(body: Body) -> Body:
    return {key: value for key, value in body.items() if key != "stream_options"} | {"stream": False}


def sent(endpoint: str, seen: Sequence[Any]) -> str:
    """The answer's pieces, put together."""
    if endpoint == "responses":
        return "".join(one["delta"] for one in seen if one["type"] == "response.output_text.delta")
    if endpoint == "refine":
        return str(seen[-1]["output"])
    if endpoint == "messages":
        return "".join(one["delta"]["text"] for one in seen if one["type"] == "content_block_delta")
    choices = [one["choices"][0] for one in seen if one != "[DONE]" and one.get("choices")]
    return "".join(one["text"] if "text" in one else one["delta"].get("content", "") for one in choices)


def code_of(error: Body) -> Any:
    return error["code"] if "code" in error else error["details"]["error_code"]


def report(endpoint: str, seen: Sequence[Any]) -> tuple[str, Body]:
    """How it ended, and the refinement's report."""
    if endpoint == "responses":
        return seen[-1]["type"], seen[-1]["response"]["refinement"]
    if endpoint == "refine":
        return seen[-1]["finish_reason"], seen[-1]["refinement"]
    if endpoint == "messages":
        return seen[-2]["delta"]["stop_reason"], seen[-2]["refinement"]
    assert seen[-1] == "[DONE]"
    (reason,) = [
        one["choices"][0]["finish_reason"] for one in seen[:-1] if one["choices"] and one["choices"][0]["finish_reason"]
    ]
    return reason, seen[-2]["refinement"]


@pytest.mark.parametrize("endpoint", ENDPOINTS)
@pytest.mark.parametrize("limit", [{"timeout_ms": 300}, {"max_total_tokens": 20}])
def test_a_streamed_answer_of_no_rounds_that_a_limit_cuts_stands(serve: Serve, endpoint: str, limit: Body) -> None:
    slow = 0.02 if "timeout_ms" in limit else 0.0
    url = serve(FakeEngine(lambda turns: WORDS, token_seconds=slow))
    seen = events(url, endpoint, body_of(endpoint, rounds=0, **limit))
    ended, told = report(endpoint, seen)
    assert ended in ("length", "response.incomplete", "max_tokens")
    # a Leader's draft that the budget cuts is a finished one, and no round was to follow
    assert told["stop_reason"] == ("deadline" if slow else "disabled")
    assert (told["applied"], told["returned_round"]) == (False, 0)
    assert 0 < len(sent(endpoint, seen).split()) < 400


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_shutdown_lets_a_plain_stream_end_with_what_was_sent(play: Play, endpoint: str) -> None:
    async def scenario() -> None:
        engine = FakeEngine(lambda turns: WORDS, token_seconds=0.01)
        app = create_app(Settings(), engine.open)
        service: Service = app.state.service
        async with app.router.lifespan_context(app), _client(app) as http:
            asking = asyncio.ensure_future(http.post(f"/v1/{endpoint}", json=body_of(endpoint, rounds=0)))
            await until(lambda: engine.leader.running > 0)
            asyncio.get_running_loop().call_later(0.3, service.drain, 0.0)
            text = (await asking).text
        datas = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
        ended, told = report(endpoint, [one if one == "[DONE]" else json.loads(one) for one in datas])
        assert (ended in ("length", "response.incomplete", "max_tokens"), told["stop_reason"]) == (True, "deadline")

    play(scenario())


def _client(app: Any) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(transport=httpx2.ASGITransport(app=app), base_url="http://test", timeout=30)


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_without_a_stream_an_unfinished_text_is_no_answer(serve: Serve, endpoint: str) -> None:
    url = serve(FakeEngine(lambda turns: WORDS, token_seconds=0.02))
    body = without_stream(body_of(endpoint, rounds=0, timeout_ms=200))
    answer = httpx2.post(f"{url}/v1/{endpoint}", json=body, timeout=30)
    assert (answer.status_code, code_of(answer.json()["error"])) == (504, "deadline_exceeded")


@pytest.mark.parametrize("rounds", [1, 2])
@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_blank_follower_leaves_the_draft_in_a_stream_as_without_one(serve: Serve, endpoint: str, rounds: int) -> None:
    blank = ""
    url = serve(FakeEngine(lambda turns: blank))
    body = body_of(endpoint, draft=" mine\n", rounds=rounds)
    for blank in BLANK:
        seen = events(url, endpoint, body)
        _, told = report(endpoint, seen)
        assert sent(endpoint, seen) == " mine\n", repr(blank)
        assert (told["stop_reason"], told["applied"], told["rounds_run"]) == ("error", False, 0)
        whole = httpx2.post(f"{url}/v1/{endpoint}", json=without_stream(body)).json()["refinement"]
        assert {key: whole[key] for key in STABLE} == {key: told[key] for key in STABLE}


@pytest.mark.parametrize("on_error", ["return_draft", "fail"])
def test_a_blank_leader_is_not_refined(serve: Serve, on_error: str) -> None:
    blank = ""
    engine = FakeEngine(lambda turns: blank)
    url = serve(engine)
    for blank in BLANK:
        answer = httpx2.post(f"{url}/v1/refine", json={"prompt": "x", "rounds": 2, "on_error": on_error})
        told = answer.json()
        if on_error == "fail":
            assert (answer.status_code, told["error"]["code"]) == (500, "engine_error")
            continue
        assert (told["refinement"]["stop_reason"], told["refinement"]["applied"]) == ("error", False)
        assert told["finish_reason"] == "stop"
        assert told["output"] == ("" if "<think>" in blank else blank)  # as it was written, but for thoughts
    assert engine.follower.calls == []


def test_thoughts_that_use_up_the_tokens_leave_a_draft_that_says_so(serve: Serve) -> None:
    engine = FakeEngine(lambda turns: "<think>on and on and on</think> the answer")
    answer = httpx2.post(f"{serve(engine)}/v1/refine", json={"prompt": "x", "max_tokens": 4}).json()
    assert (answer["output"], answer["finish_reason"], answer["refinement"]["applied"]) == ("", "length", False)
    assert engine.follower.calls == []


class Breaks:
    """Implements `ChatModel`: speaks, and then has a bug."""

    name = "breaks"

    def __init__(self, *words: str) -> None:
        self._words = words

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        for word in self._words:
            yield Chunk(word, 1, 3)
        raise ZeroDivisionError("secret detail")


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_bug_after_the_first_byte_is_the_last_frame(
    serve: Serve, caplog: pytest.LogCaptureFixture, endpoint: str
) -> None:
    caplog.set_level(logging.INFO)
    engine = FakeEngine()
    engine.leader = Breaks("Hello", " there")  # type: ignore[assignment]
    url = serve(engine)
    seen = events(url, endpoint, body_of(endpoint, rounds=0))
    error = seen[-1] if endpoint == "responses" else seen[-1]["error"]
    assert code_of(error) == "internal_error"
    assert "secret" not in json.dumps(seen)
    access = _access(caplog)
    assert (access["status"], access["stream"]) == (500, True)
    assert access["request_id"] in error["message"]
    assert "ZeroDivisionError: secret detail" in caplog.text
    name = "chat" if endpoint == "chat/completions" else endpoint
    assert f'endpoint="{name}",error_type="internal_error",model_name="fake"}} 1.0' in httpx2.get(f"{url}/metrics").text


def _access(caplog: pytest.LogCaptureFixture) -> dict[str, Any]:
    def lines() -> list[logging.LogRecord]:
        return [one for one in caplog.records if one.name == "slhf_server.access" and "/v1/" in one.getMessage()]

    assert eventually(lambda: bool(lines()))
    return vars(lines()[-1])


@pytest.mark.parametrize("endpoint", ENDPOINTS)
def test_a_bug_in_a_later_round_loses_nothing_that_was_finished(
    serve: Serve, caplog: pytest.LogCaptureFixture, endpoint: str
) -> None:
    engine = FakeEngine(lambda turns: "the draft")
    engine.follower = Breaks()  # type: ignore[assignment]
    seen = events(serve(engine), endpoint, body_of(endpoint, rounds=2))
    _, told = report(endpoint, seen)
    assert (sent(endpoint, seen), told["stop_reason"]) == ("the draft", "error")
    assert "ZeroDivisionError: secret detail" in caplog.text


def test_a_bug_in_one_choice_leaves_the_others(serve: Serve) -> None:
    replies = iter([ZeroDivisionError("bug"), None, None])

    def reply(turns: Sequence[Turn]) -> Said:
        if (bug := next(replies)) is not None:
            raise bug
        return "fine"

    answer = httpx2.post(
        f"{serve(FakeEngine(reply))}/v1/chat/completions", json={"messages": CHAT, "n": 3, "refine": {"rounds": 0}}
    )
    assert answer.status_code == 200
    assert [one["message"]["content"] for one in answer.json()["choices"]] == ["fine", "fine"]


def test_a_bug_in_the_metrics_costs_no_answer(play: Play, caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        app = create_app(Settings(), FakeEngine().open)
        app.state.service.metrics.success = Counter("other", "Without our labels.", registry=None)
        async with app.router.lifespan_context(app), _client(app) as http:
            await app.state.service.loading()
            answer = await http.post("/v1/refine", json={"prompt": "x", "draft": "mine"})
        assert (answer.status_code, answer.json()["output"]) == (200, "better mine")
        assert "not counted in full" in caplog.text

    play(scenario())


def test_a_deadline_that_passed_in_the_queue_asks_no_model(play: Play) -> None:
    async def scenario() -> None:
        engine = FakeEngine(token_seconds=30)
        app = create_app(Settings(limits={"running": 1}), engine.open)
        async with app.router.lifespan_context(app), _client(app) as http:
            await app.state.service.loading()
            first = asyncio.ensure_future(http.post("/v1/refine", json={"prompt": "x", "rounds": 0}))
            await until(lambda: engine.leader.running > 0)
            late = await http.post("/v1/refine", json={"prompt": "x", "draft": "mine", "timeout_ms": 20})
            none = await http.post("/v1/refine", json={"prompt": "x", "timeout_ms": 20})
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
        assert (late.json()["output"], late.json()["refinement"]["stop_reason"]) == ("mine", "deadline")
        assert (none.status_code, none.json()["error"]["code"]) == (504, "deadline_exceeded")
        assert (len(engine.leader.calls), len(engine.follower.calls)) == (1, 0)

    play(scenario())


def test_a_shutdown_between_plan_and_first_step_cuts_the_request_too(play: Play) -> None:
    async def scenario() -> None:
        engine = FakeEngine(token_seconds=30)
        app = create_app(Settings(), engine.open)
        service: Service = app.state.service
        async with app.router.lifespan_context(app):
            await service.loading()
            options = RefineOptions()
            messages = [ChatMessage(role="user", content="x")]
            steps = service.run(
                service.planner().plan(RefineParams("refine", "1", None, messages, options, SamplingParams(), "none"))
            )
            service.drain(0.0)
            with pytest.raises(DeadlineExceeded):
                async for _ in steps:
                    pass
        assert engine.leader.calls == []

    play(scenario())


class Lingers(Breaks):
    """Says everything, and is slow to end."""

    async def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        yield Chunk("whole", 1, 3, finish_reason="stop")
        await asyncio.Event().wait()


@pytest.mark.parametrize("stream", [False, True])
def test_a_round_that_is_whole_when_the_deadline_passes_is_finished(serve: Serve, stream: bool) -> None:
    engine = FakeEngine()
    engine.follower = Lingers()  # type: ignore[assignment]
    body = {"prompt": "x", "draft": "mine", "timeout_ms": 200, "stream": stream}
    text = httpx2.post(f"{serve(engine)}/v1/refine", json=body).text
    answer = json.loads(text.rpartition("data: ")[2] if stream else text)
    assert (answer["output"], answer["refinement"]["stop_reason"]) == ("whole", "rounds_done")


def test_a_client_that_goes_before_the_first_frame_ends_the_work_at_once(play: Play) -> None:
    """The frames' generator was never started then, and has no `finally` that could close anything."""

    async def scenario() -> None:
        engine = FakeEngine(token_seconds=0.5)
        app = create_app(Settings(), engine.open)
        body = json.dumps({"prompt": "x", "stream": True}).encode()
        told: Iterator[Message] = iter([{"type": "http.request", "body": body}, {"type": "http.disconnect"}])

        async def receive() -> Message:
            return next(told, {"type": "http.disconnect"})

        async def send(message: Message) -> None:
            await asyncio.Event().wait()  # the client's window is full

        scope: dict[str, Any] = {
            "type": "http",
            "asgi": {"spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "headers": [],
        }
        scope |= {
            "path": "/v1/refine",
            "raw_path": b"/v1/refine",
            "query_string": b"",
            "root_path": "",
            "scheme": "http",
        }
        async with app.router.lifespan_context(app):
            await app.state.service.loading()
            await app(scope | {"client": ("x", 1), "server": ("x", 2)}, receive, send)
            assert engine.leader.running == 0
            assert app.state.service.admission.running.total() == 0

    play(scenario())


def test_an_error_of_the_engine_has_one_code_streamed_or_not(serve: Serve) -> None:
    url = serve(FakeEngine(lambda turns: ("half a", EngineFailed("boom"))))
    for endpoint in ENDPOINTS:
        last = events(url, endpoint, body_of(endpoint, rounds=0))[-1]
        body = body_of(endpoint, rounds=0)
        whole = httpx2.post(f"{url}/v1/{endpoint}", json=without_stream(body)).json()["error"]
        assert code_of(last if endpoint == "responses" else last["error"]) == code_of(whole) == "engine_error"


class Breaking:
    """Implements `Renderer`: breaks at a step, or at the end."""

    def __init__(self, at: str) -> None:
        self._at = at

    def event(self, number: int, event: RefinementEvent) -> list[bytes]:
        return [b"good", self._break("step")] if isinstance(event, RoundDelta) else []

    def end(self) -> list[bytes]:
        return [self._break("end")]

    def names(self) -> dict[str, str]:
        return {}

    def error(self, status: int, body: ErrorBody) -> bytes:
        return f"error {body.code}: {body.message}".encode()

    def _break(self, place: str) -> bytes:
        return b"fine" if place != self._at else bytes(1 // 0)


@pytest.mark.parametrize("at", ["step", "end"])
def test_a_bug_in_what_writes_the_frames_is_the_last_frame_too(
    play: Play, caplog: pytest.LogCaptureFixture, at: str
) -> None:
    async def scenario() -> None:
        app = create_app(Settings(), FakeEngine().open)
        service: Service = app.state.service
        async with app.router.lifespan_context(app):
            await service.loading()
            messages = [ChatMessage(role="user", content="x")]
            jobs = service.planner().plan(
                RefineParams("refine", "an-id", None, messages, RefineOptions(), SamplingParams(), "all")
            )
            frames = [frame async for frame in (await stream(service, jobs, Breaking(at))).body_iterator]
        assert frames[-1] == b"error internal_error: internal error; request id an-id"
        assert jobs[0].log["status"] == 500
        assert "request an-id failed unexpectedly" in caplog.text
        assert "ZeroDivisionError" in caplog.text

    play(scenario())
