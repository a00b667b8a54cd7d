"""Over HTTP the truth is the same: every endpoint, streamed and not, mounted under a prefix and behind keys.

The models are those of tests/server/refinement/test_faults.py, on virtual time; verdict.py there says what is due.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import HealthCheck, event, example, given, note, settings
from hypothesis import strategies as st
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.types import Message

from slhf_server.app import create_app
from slhf_server.errors import RequestError
from slhf_server.models.base import Chunk, SamplingParams, Turn
from slhf_server.models.fake import FakeEngine
from slhf_server.refinement.job import Deltas, Endpoint
from slhf_server.refinement.seeds import seed_of
from slhf_server.settings.server import Settings
from tests.server.refinement.erratic import SECRET, Act, Erratic, VirtualLoop
from tests.server.refinement.test_faults import DRAFTS, acts
from tests.server.refinement.verdict import Answer, Wish, verdict

PATHS: dict[Endpoint, str] = {
    "chat": "/v1/chat/completions",
    "completions": "/v1/completions",
    "messages": "/v1/messages",
    "refine": "/v1/refine",
    "responses": "/v1/responses",
}
PREFIX = "/deep/down"
LONG_MS = 10**8
SEED = 7


@dataclass
class Asked:
    """A request, and how its models behave."""

    endpoint: Endpoint
    stream: bool
    choices: int
    structured: bool
    show_rounds: bool
    rounds: int
    draft: str | None
    fails: bool
    stops_when_unchanged: bool
    max_total_tokens: int
    timeout_ms: int
    shutdown: float | None
    """Virtual seconds after which the server is told to end."""
    acts: list[list[Act]]
    """Of each choice's models."""

    @property
    def wish(self) -> Wish:
        deltas: Deltas = "none"
        if self.stream:
            deltas = "all" if self.endpoint == "refine" or self.show_rounds else "last"
        return Wish(
            self.endpoint,
            deltas,
            self.rounds,
            self.draft,
            self.structured,
            self.fails,
            self.stops_when_unchanged,
            self.max_total_tokens,
        )

    def body(self) -> dict[str, Any]:
        options: dict[str, Any] = {
            "rounds": self.rounds,
            "draft": self.draft,
            "on_error": "fail" if self.fails else "return_draft",
            "stop_when_unchanged": self.stops_when_unchanged,
            "max_total_tokens": self.max_total_tokens,
            "timeout_ms": self.timeout_ms,
            "return_rounds": True,
        }
        if self.endpoint == "refine":
            return {"prompt": "what is it", "stream": self.stream, **options}
        form = {"type": "json_object"} if self.structured else {"type": "text"}
        if self.endpoint == "responses":
            return {"input": "what is it", "stream": self.stream, "refine": options, "text": {"format": form}}
        if self.endpoint == "messages":
            return self._message(options)
        body = {"stream": self.stream, "n": self.choices, "refine": options, "seed": SEED}
        if self.stream:
            body["stream_options"] = {"include_usage": True}
        if self.endpoint == "completions":
            return body | {"prompt": "what is it", "max_tokens": 10**6}
        options["show_rounds"] = self.show_rounds
        return body | {"messages": [{"role": "user", "content": "what is it"}], "response_format": form}

    def _message(self, options: dict[str, Any]) -> dict[str, Any]:
        body = {"stream": self.stream, "refine": options | {"show_rounds": self.show_rounds}, "max_tokens": 10**6}
        return body | {"messages": [{"role": "user", "content": "what is it"}]}


def shaped(asked: Asked) -> Asked:
    """What the endpoint does not know is not asked for."""
    if asked.endpoint in ("messages", "refine", "responses"):
        asked.choices = 1
    if asked.endpoint in ("refine", "completions", "messages"):  # a message's structure needs a process for its schema
        asked.structured = False
    if asked.endpoint not in ("chat", "messages"):
        asked.show_rounds = False
    asked.acts = [asked.acts[number % len(asked.acts)] for number in range(asked.choices)]
    return asked


ASKED = st.builds(
    Asked,
    endpoint=st.sampled_from([*PATHS]),
    stream=st.booleans(),
    choices=st.sampled_from([1, 1, 2, 3]),
    structured=st.sampled_from([False, False, True]),
    show_rounds=st.booleans(),
    rounds=st.integers(0, 3),
    draft=st.none() | DRAFTS,
    fails=st.booleans(),
    stops_when_unchanged=st.booleans(),
    max_total_tokens=st.sampled_from([1, 17, 40, 200, *[100_000] * 6]),
    timeout_ms=st.sampled_from([1, 50, 2_500, *[LONG_MS] * 5]),
    shutdown=st.sampled_from([*[None] * 6, 0.0, 0.02, 1.5]),
    acts=st.lists(st.lists(acts([0.0, 0.0, 0.0, 0.01, 0.3, 40.0]), min_size=1, max_size=4), min_size=1, max_size=3),
).map(shaped)


class Troupe:
    """Implements `ChatModel` for both roles: each choice, known by its seeds, has an `Erratic` of its own."""

    name = "erratic"

    def __init__(self, acts: Sequence[Sequence[Act]]) -> None:
        self.choices = [Erratic(own) for own in acts]
        self._by_seed = {seed_of(SEED, choice, number): choice for choice in range(len(acts)) for number in range(9)}

    def stream(
        self, turns: Sequence[Turn], sampling: SamplingParams, *, request_id: str, deltas: bool = True
    ) -> AsyncGenerator[Chunk, None]:
        choice = self.choices[self._by_seed.get(sampling.seed, 0)]
        return choice.stream(turns, sampling, request_id=request_id, deltas=deltas)


@dataclass
class Seen:
    """What the client has got."""

    status: int = 0
    body: bytes = b""
    texts: dict[int, str] = field(default_factory=dict)
    finish_reasons: dict[int, str] = field(default_factory=dict)
    reports: dict[int, Mapping[str, Any]] = field(default_factory=dict)
    error: str | None = None
    """Its code, or else its type."""

    def choice(self, number: int, text: str, finish_reason: str, report: Mapping[str, Any] | None) -> None:
        self.texts[number] = text
        self.finish_reasons[number] = finish_reason
        if report is not None:
            self.reports[number] = report


async def exchange(app: Any, asked: Asked) -> Seen:
    """The answer, as raw ASGI gives it."""
    seen, sent = Seen(), asyncio.Event()
    body = json.dumps(asked.body()).encode()

    async def receive() -> Message:
        if not sent.is_set():
            sent.set()
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.Event().wait()
        raise AssertionError("the client stays")

    async def send(message: Message) -> None:
        seen.status = message.get("status", seen.status)
        seen.body += message.get("body", b"")

    path = PREFIX + PATHS[asked.endpoint]
    headers = [(b"authorization", b"Bearer right"), (b"content-type", b"application/json")]
    scope: dict[str, Any] = {"type": "http", "asgi": {"version": "3.0", "spec_version": "2.3"}, "http_version": "1.1"}
    scope |= {
        "method": "POST",
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "headers": headers,
    }
    await app(scope | {"client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "scheme": "http"}, receive, send)
    return seen


def read(seen: Seen, asked: Asked) -> None:
    if seen.status != 200:
        seen.error = _code(json.loads(seen.body)["error"], asked)
    elif asked.stream:
        _read_stream(seen, asked)
    else:
        _read_json(seen, asked, json.loads(seen.body))


def _code(error: Mapping[str, Any], asked: Asked) -> str:
    code = error.get("details", {}).get("error_code") if asked.endpoint == "messages" else error["code"]
    return str(code or error["type"])


def _read_json(seen: Seen, asked: Asked, answer: Mapping[str, Any]) -> None:
    if asked.endpoint == "refine":
        return seen.choice(0, answer["output"], answer["finish_reason"], answer["refinement"])
    if asked.endpoint == "responses":
        return _read_response(seen, answer)
    if asked.endpoint == "messages":
        return _read_message(seen, answer)
    for choice in answer["choices"]:
        text = choice["text"] if asked.endpoint == "completions" else choice["message"]["content"]
        report = choice["refinement"] if len(answer["choices"]) > 1 else answer["refinement"]
        seen.choice(choice["index"], text, choice["finish_reason"], report)


def _read_response(seen: Seen, response: Mapping[str, Any]) -> None:
    text = response["output"][0]["content"][0]["text"]
    seen.choice(0, text, {"completed": "stop", "incomplete": "length"}[response["status"]], response["refinement"])


def _read_message(seen: Seen, message: Mapping[str, Any]) -> None:
    text = "".join(block["text"] for block in message["content"] if block["type"] == "text")
    reasons = {"end_turn": "stop", "max_tokens": "length", "tool_use": "tool_calls"}
    seen.choice(0, text, reasons[message["stop_reason"]], message["refinement"])


def _streamed_message(sent: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """The message that its events build; they come in Anthropic's order, with pings anywhere among them."""
    events = [one for one in sent if one["type"] != "ping"]
    blocks: list[dict[str, Any]] = []
    kinds = [one["type"] for one in events]
    assert (kinds[0], kinds[-2:]) == ("message_start", ["message_delta", "message_stop"])
    for before, one in zip(events, events[1:-2], strict=False):
        assert one["index"] == len(blocks) - (one["type"] != "content_block_start")
        opens = before["type"] in ("message_start", "content_block_stop")
        assert (one["type"] == "content_block_start") == opens
        if one["type"] == "content_block_start":
            blocks.append(one["content_block"])
        elif one["type"] == "content_block_delta" and one["delta"]["type"] == "text_delta":
            blocks[-1]["text"] += one["delta"]["text"]
    assert events[-3]["type"] == "content_block_stop"
    return {"content": blocks, **events[-2]["delta"], "refinement": events[-2]["refinement"]}


def _read_stream(seen: Seen, asked: Asked) -> None:
    frames = [part for part in seen.body.decode().split("\n\n") if part and not part.startswith(":")]
    datas = [part[part.index("data: ") + 6 :] for part in frames]
    done = datas[-1:] == ["[DONE]"]
    events = [json.loads(data) for data in (datas[:-1] if done else datas)]
    last = events[-1]
    if "error" in last and last.get("type") != "response.completed" and last.get("error"):
        seen.error = _code(last["error"], asked)
    elif last.get("type") == "error":
        seen.error = last["code"]
    if asked.endpoint in ("chat", "completions"):
        assert done == (seen.error is None)
        _read_chunks(seen, asked, events)
    elif seen.error is None and asked.endpoint == "refine":
        _read_json(seen, asked, last)
    elif seen.error is None and asked.endpoint == "messages":
        _read_message(seen, _streamed_message(events))
    elif seen.error is None:
        _read_response(seen, last["response"])
        deltas = "".join(one["delta"] for one in events if one["type"] == "response.output_text.delta")
        assert deltas == seen.texts[0]


def _read_chunks(seen: Seen, asked: Asked, events: Sequence[Mapping[str, Any]]) -> None:
    texts: dict[int, str] = {}
    for one in events:
        for choice in one.get("choices", ()):
            number = choice["index"]
            piece = choice["text"] if asked.endpoint == "completions" else choice["delta"].get("content", "")
            texts[number] = texts.get(number, "") + piece
            if choice["finish_reason"] is not None:
                seen.choice(number, texts[number], choice["finish_reason"], None)
        if one.get("refinement") and asked.choices == 1:
            seen.reports[0] = one["refinement"]


async def play(asked: Asked) -> None:
    loop = asyncio.get_running_loop()
    engine = FakeEngine()
    troupe = Troupe(asked.acts)
    engine.leader = engine.follower = troupe  # type: ignore[assignment]
    app = create_app(Settings(api_keys="me=right", limits={"timeout_ms": LONG_MS}), engine.open)
    service = app.state.service
    async with app.router.lifespan_context(app):
        await service.loading()
        begun = loop.time()
        ends = begun + asked.timeout_ms / 1e3
        if asked.shutdown is not None:
            loop.call_at(begun + asked.shutdown, service.drain, 1.0)
            ends = min(ends, begun + asked.shutdown)
        seen = await exchange(Starlette(routes=[Mount(PREFIX, app)]), asked)
        if asked.shutdown is not None and loop.time() <= begun + asked.shutdown and seen.status == 503:
            return  # it came too late to be planned
        it_is_what_is_due(asked, troupe, seen, ends)
    assert not any(one.running for one in troupe.choices)


def it_is_what_is_due(asked: Asked, troupe: Troupe, seen: Seen, deadline: float) -> None:
    read(seen, asked)
    assert SECRET.encode() not in seen.body
    # An end that comes in the very moment of a draft of nothing may be seen before that draft is looked at, or after.
    moment = deadline + (1e-5 if seen.error == "engine_error" else 0)
    due = [verdict(asked.wish, one.calls, moment) for one in troupe.choices]
    errors = {one.code or one.type: one for one in due if isinstance(one, RequestError)}
    answers = {number: one for number, one in enumerate(due) if isinstance(one, Answer)}
    event(f"{asked.endpoint} {'streamed' if asked.stream else 'whole'}: {', '.join(errors) or 'answers'}")
    if errors and (asked.stream or not answers):
        assert seen.error in errors
        assert seen.status in (200 if asked.stream else 0, errors[str(seen.error)].status)
    else:
        assert seen.error is None
    if seen.status == 200:
        assert seen.texts.keys() == answers.keys()
        for number in seen.texts:
            it_is_the_answer(seen, number, answers[number], asked)


def it_is_the_answer(seen: Seen, number: int, due: Answer, asked: Asked) -> None:
    assert seen.texts[number] == due.texts[due.best]
    assert seen.finish_reasons[number] == due.finish_reasons[due.best]
    if (report := seen.reports.get(number)) is not None:
        assert [one["text"] for one in report["rounds"]] == due.texts
        assert report["stop_reason"] in due.stop_reasons
        assert report["applied"] == (len(due.texts) > 1)


NOTHING_AT_THE_END = Asked(
    endpoint="chat",
    stream=False,
    choices=1,
    structured=False,
    show_rounds=False,
    rounds=1,
    draft=None,
    fails=True,
    stops_when_unchanged=False,
    max_total_tokens=17,
    timeout_ms=1,
    shutdown=0.0,
    acts=[[Act(text="", before="", size=1, pause=0.0, error=None, calls_tools=False)]],
)
PINGS = replace(
    NOTHING_AT_THE_END,
    endpoint="messages",
    stream=True,
    rounds=0,
    fails=False,
    timeout_ms=100_000_000,
    shutdown=None,
    acts=[[Act(text="", before="<think>\nSECRET </think>\n\n", size=1, pause=40.0, error=None, calls_tools=False)]],
)
"""A Leader that thinks for minutes: the stream is kept alive by pings."""


@settings(deadline=None, max_examples=250, suppress_health_check=[HealthCheck.too_slow])
@example(NOTHING_AT_THE_END)
@example(PINGS)
@given(ASKED)
def test_whatever_the_models_do_every_endpoint_tells_the_truth(asked: Asked) -> None:
    note(str(asked))
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        runner.run(play(asked))
