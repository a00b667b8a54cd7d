"""Traces: what a collector is sent, whose span ours is a child of, and that nobody else notices."""

import asyncio
import http.server
import json
import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import httpx2
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes as conventions

from slhf_server.app import create_app
from slhf_server.errors import EngineFailed
from slhf_server.models.base import Turn
from slhf_server.models.fake import FakeEngine, Said
from slhf_server.settings.problem import SettingsError
from slhf_server.settings.reading import load_settings
from slhf_server.settings.server import Settings
from tests.conftest import running, until
from tests.server.conftest import Run
from tests.server.models.judges.canned import canned

ASK = {"messages": [{"role": "user", "content": "what is it"}]}
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
UNSET, ERROR = Status.STATUS_CODE_UNSET, Status.STATUS_CODE_ERROR


class Collector(http.server.ThreadingHTTPServer):
    """An OTLP/HTTP collector: keeps what it is sent, or answers with another status, or not at all."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}/v1/traces"
        self.status = 200
        self.refused = threading.Semaphore(0)
        self.answers = threading.Event()
        self.answers.set()
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def spans(self) -> list[Span]:
        """In the order in which they began."""
        scopes = [scope for resource in self.resources for scope in resource.scope_spans]
        return sorted((span for scope in scopes for span in scope.spans), key=lambda span: span.start_time_unix_nano)

    @property
    def resources(self) -> list[Any]:
        return [resource for request in self.requests for resource in request.resource_spans]


class _Handler(http.server.BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        assert self.server.answers.wait(30)
        if self.server.status == 200:
            self.server.requests.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()
        if self.server.status != 200:
            self.server.refused.release()

    def log_message(self, *args: Any) -> None:
        pass


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        yield server
        server.answers.set()
        server.shutdown()
        thread.join(10)


Traced = Callable[..., AbstractContextManager[str]]


@pytest.fixture
def traced(collector: Collector) -> Traced:
    """A server whose traces the collector has, all of them, once the context is left: `with traced(engine) as url:`."""

    @contextmanager
    def start(engine: FakeEngine | None = None, **settings: Any) -> Iterator[str]:
        engine = engine or FakeEngine()
        with running(create_app(Settings(**({"otlp_endpoint": collector.url} | settings)), engine.open)) as url:
            yield url
        for thread in threading.enumerate():
            if thread.name.startswith("OtelBatch"):  # on a busy machine it may outlive the server
                thread.join(20)

    return start


def chat(url: str, headers: dict[str, str] | None = None, **body: Any) -> httpx2.Response:
    return httpx2.post(f"{url}/v1/chat/completions", json=ASK | body, headers=headers, timeout=20)


def value(any_value: AnyValue) -> Any:
    kind = any_value.WhichOneof("value")
    assert kind is not None
    return [value(one) for one in any_value.array_value.values] if kind == "array_value" else getattr(any_value, kind)


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: value(one.value) for one in span.attributes}


def says(text: str) -> Any:
    return [{"type": "text", "content": text}]


def test_a_refinement_is_a_span_and_each_round_a_child_of_it(traced: Traced, collector: Collector) -> None:
    with traced() as url:
        answer = chat(url, {"X-Request-Id": "r-1"}, refine={"rounds": 2}).json()
    whole, *rounds = collector.spans
    assert [span.name for span in collector.spans] == ["chat fake", "round 0", "round 1", "round 2"]
    assert [span.kind for span in collector.spans] == [Span.SPAN_KIND_SERVER] + 3 * [Span.SPAN_KIND_INTERNAL]
    assert not whole.parent_span_id
    assert {span.parent_span_id for span in rounds} == {whole.span_id}
    assert {span.trace_id for span in rounds} == {whole.trace_id}
    assert {span.status.code for span in collector.spans} == {UNSET}
    assert [span.name for span in sorted(rounds, key=lambda span: span.end_time_unix_nano)] == [
        span.name for span in rounds
    ]
    assert all(span.end_time_unix_nano <= whole.end_time_unix_nano for span in rounds)
    assert answer["refinement"]["rounds_run"] == 2


def test_spans_say_what_was_asked_and_what_it_took(traced: Traced, collector: Collector) -> None:
    with traced() as url:
        answer = chat(url, {"X-Request-Id": "r-1"}).json()
    every = {
        conventions.GEN_AI_OPERATION_NAME: "chat",
        conventions.GEN_AI_PROVIDER_NAME: "slhf",
        conventions.GEN_AI_SYSTEM: "slhf",
        conventions.GEN_AI_REQUEST_MODEL: "fake",
        conventions.GEN_AI_RESPONSE_FINISH_REASONS: ["stop"],
    }
    whole, draft, follower = (attributes(span) for span in collector.spans)
    assert whole == every | {
        conventions.GEN_AI_USAGE_INPUT_TOKENS: answer["usage"]["prompt_tokens"],
        conventions.GEN_AI_USAGE_OUTPUT_TOKENS: answer["usage"]["completion_tokens"],
        "slhf.request_id": "r-1",
        "slhf.endpoint": "chat",
        "slhf.draft_source": "leader",
        "slhf.stop_reason": "rounds_done",
        "slhf.rounds_run": 1,
    }
    usage = answer["refinement"]["usage"]
    assert draft == every | {
        conventions.GEN_AI_USAGE_INPUT_TOKENS: usage["draft"]["prompt_tokens"],
        conventions.GEN_AI_USAGE_OUTPUT_TOKENS: usage["draft"]["completion_tokens"],
        "slhf.round": 0,
        "slhf.role": "leader",
    }
    assert follower.pop("slhf.edit_ratio") == pytest.approx(1 / 11)  # one word of 6 added to 5
    assert follower == every | {
        conventions.GEN_AI_USAGE_INPUT_TOKENS: usage["rounds"][0]["prompt_tokens"],
        conventions.GEN_AI_USAGE_OUTPUT_TOKENS: usage["rounds"][0]["completion_tokens"],
        "slhf.round": 1,
        "slhf.role": "follower",
    }


def test_a_verdict_is_a_child_behind_its_round(traced: Traced, collector: Collector) -> None:
    with canned(reward=len) as judge:
        judges = {"house": {"reward": {"base_url": judge.url, "max_retries": 0}}}
        with traced(judges=judges, models={"fake": {"judge": "house", "select": "judge"}}) as url:
            chat(url)
            judge.status = 500
            chat(url)
    whole, *children = collector.spans[:4]
    verdict = next(span for span in children if span.name == "judge house")
    assert [span.name for span in sorted(children, key=lambda one: one.end_time_unix_nano)][-1] == "judge house"
    assert (verdict.parent_span_id, verdict.status.code) == (whole.span_id, UNSET)
    told = attributes(verdict)
    assert told.pop("slhf.p") > 0.9
    assert told == {
        conventions.GEN_AI_OPERATION_NAME: "evaluate",
        conventions.GEN_AI_PROVIDER_NAME: "slhf",
        conventions.GEN_AI_SYSTEM: "slhf",
        conventions.GEN_AI_REQUEST_MODEL: "house",
        conventions.GEN_AI_USAGE_INPUT_TOKENS: 0,
        conventions.GEN_AI_USAGE_OUTPUT_TOKENS: 0,
        "slhf.round": 1,
    }
    failed = next(span for span in collector.spans[4:] if span.name == "judge house")
    assert (failed.status.code, attributes(failed)["error.type"]) == (ERROR, "judge_failed")


@pytest.mark.parametrize("stream", [False, True])
def test_both_endpoints_are_traced_streamed_or_not(traced: Traced, collector: Collector, stream: bool) -> None:
    with traced() as url:
        chat(url, stream=stream)
        httpx2.post(f"{url}/v1/refine", json={"prompt": "what", "draft": "mine", "rounds": 1, "stream": stream})
    told = [(one["slhf.endpoint"], one["slhf.draft_source"]) for one in map(attributes, collector.spans[::3])]
    assert told == [("chat", "leader"), ("refine", "client")]
    assert [span.name for span in collector.spans[3:]] == ["chat fake", "round 1"]  # nobody generated the draft


def test_each_choice_is_a_span_of_its_own(traced: Traced, collector: Collector) -> None:
    with traced() as url:
        chat(url, {"traceparent": f"00-{TRACE}-{PARENT}-01"}, n=2)
    assert [span.name for span in collector.spans[:2]] == ["chat fake", "chat fake"]
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    first, second = (span.span_id for span in collector.spans[:2])
    assert sorted(span.parent_span_id for span in collector.spans[2:]) == sorted([first, second] * 2)


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/refine"])
def test_the_callers_span_is_the_parent_of_ours(traced: Traced, collector: Collector, path: str) -> None:
    headers = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
    with traced() as url:
        httpx2.post(f"{url}{path}", json=ASK, headers=headers)
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}
    assert collector.spans[0].parent_span_id.hex() == PARENT
    assert {span.trace_state for span in collector.spans} == {"vendor=1"}


@pytest.mark.parametrize(
    "traceparent",
    ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01", f"ff-{TRACE}-{PARENT}-01", f"00-{TRACE}-{PARENT}", "0" * 600],
)
def test_a_malformed_traceparent_is_ignored(
    traced: Traced, collector: Collector, caplog: pytest.LogCaptureFixture, traceparent: str
) -> None:
    with traced() as url:
        assert chat(url, {"traceparent": traceparent}).status_code == 200
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]
    assert not collector.spans[0].parent_span_id
    assert collector.spans[0].trace_id.hex() != TRACE


def test_what_the_caller_does_not_sample_is_not_sent(traced: Traced, collector: Collector) -> None:
    with traced(trace_content=True) as url:
        assert chat(url, {"traceparent": f"00-{TRACE}-{PARENT}-00"}).status_code == 200
    assert collector.spans == []


def test_traces_hold_no_text_by_default(traced: Traced, collector: Collector) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        return EngineFailed("secret-cause") if len(turns) > 1 else "secret-answer"

    with traced(FakeEngine(reply)) as url:
        chat(url, messages=[{"role": "user", "content": "secret-question"}])
        chat(url, messages=[{"role": "user", "content": "secret-question"}], refine={"on_error": "fail"})
        chat(url, messages=[{"role": "user", "content": "secret-question"}], refine={"draft": "secret-draft"})
    assert len(collector.spans) == 8
    assert b"secret" not in b"".join(request.SerializeToString() for request in collector.requests)


def test_traces_hold_prompts_and_texts_where_that_is_asked_for(traced: Traced, collector: Collector) -> None:
    with traced(trace_content=True) as url:
        chat(url)
        chat(url, refine={"draft": "é"})
    whole, draft, follower, refined, _ = map(attributes, collector.spans)
    assert json.loads(whole[conventions.GEN_AI_INPUT_MESSAGES]) == [{"role": "user", "parts": says("what is it")}]
    texts = [json.loads(one[conventions.GEN_AI_OUTPUT_MESSAGES])[0] for one in (draft, follower, whole)]
    assert [text["parts"] for text in texts] == [
        says("draft of: what is it"),
        says("better draft of: what is it"),
        says("better draft of: what is it"),
    ]
    assert {(text["role"], text["finish_reason"]) for text in texts} == {("assistant", "stop")}
    assert refined["slhf.draft"] == "é"
    assert "slhf.draft" not in whole


def test_text_that_is_no_unicode_is_traced_all_the_same(
    traced: Traced, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    with traced(FakeEngine(lambda turns: "half \ud800"), trace_content=True) as url:
        assert chat(url, refine={"rounds": 0}).status_code == 200
    for span in collector.spans:
        assert json.loads(attributes(span)[conventions.GEN_AI_OUTPUT_MESSAGES])[0]["parts"] == says("half ?")
    assert not [record for record in caplog.records if record.name.startswith("opentelemetry")]


def test_a_refinement_that_fails_has_its_errors_code_and_so_has_the_round(traced: Traced, collector: Collector) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        return EngineFailed("boom") if len(turns) > 1 else "ok"

    with traced(FakeEngine(reply)) as url:
        assert chat(url, refine={"on_error": "fail"}).status_code == 500
    whole, draft, follower = collector.spans
    assert [(span.status.code, span.status.message) for span in (whole, follower)] == 2 * [(ERROR, "engine_error")]
    assert attributes(whole)["error.type"] == attributes(follower)["error.type"] == "engine_error"
    assert draft.status.code == UNSET


def test_a_choice_that_fails_does_not_mark_the_others(traced: Traced, collector: Collector) -> None:
    replies: Iterator[Said] = iter([EngineFailed("boom"), "ok"])
    with traced(FakeEngine(lambda turns: next(replies))) as url:
        assert chat(url, n=2, refine={"rounds": 0}).status_code == 200
    assert sorted(span.status.message for span in collector.spans[:2]) == ["", "engine_error"]


def test_a_round_that_fails_marks_only_itself_where_the_draft_is_returned(traced: Traced, collector: Collector) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        return ("half a text", EngineFailed("boom")) if len(turns) > 1 else "ok"

    with traced(FakeEngine(reply)) as url:
        assert chat(url).json()["refinement"]["stop_reason"] == "error"
    whole, _, follower = collector.spans
    assert whole.status.code == UNSET
    assert attributes(whole)["slhf.stop_reason"] == attributes(follower)["slhf.stop_reason"] == "error"
    assert follower.status.code == ERROR


def test_a_round_that_a_limit_cuts_says_so_and_what_it_took(traced: Traced, collector: Collector) -> None:
    """The draft costs 3 + 5 tokens, the round's prompt is 3 + 5 + the Follower's turn; 2 tokens are left."""
    with traced() as url:
        prompt = chat(url).json()["refinement"]["usage"]["rounds"][0]["prompt_tokens"]
        answer = chat(url, refine={"max_total_tokens": 8 + prompt + 2}).json()
    assert answer["refinement"]["stop_reason"] == "token_budget"
    whole, _, cut = map(attributes, collector.spans[3:])
    assert cut["slhf.stop_reason"] == whole["slhf.stop_reason"] == "token_budget"
    assert (cut[conventions.GEN_AI_USAGE_INPUT_TOKENS], cut[conventions.GEN_AI_USAGE_OUTPUT_TOKENS]) == (prompt, 2)
    assert {span.status.code for span in collector.spans} == {UNSET}


def test_a_streamed_round_that_is_cut_and_stands_is_a_finished_one(traced: Traced, collector: Collector) -> None:
    with traced() as url:
        prompt = chat(url).json()["refinement"]["usage"]["rounds"][0]["prompt_tokens"]
        chat(url, stream=True, refine={"max_total_tokens": 8 + prompt + 2})
    whole, _, cut = map(attributes, collector.spans[3:])
    assert cut[conventions.GEN_AI_RESPONSE_FINISH_REASONS] == ["length"]
    assert cut[conventions.GEN_AI_USAGE_OUTPUT_TOKENS] == 2
    assert whole["slhf.rounds_run"] == 1


def test_a_request_that_gets_no_place_has_a_span_too(traced: Traced, collector: Collector) -> None:
    engine = FakeEngine(token_seconds=5)
    with traced(engine, limits={"running": 1, "waiting": 0}) as url:
        asyncio.run(leave(url, engine, meanwhile=lambda: chat(url)))
    assert sorted(span.status.message for span in collector.spans) == ["cancelled", "cancelled", "rate_limit_exceeded"]


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_leaves_cancelled_spans(traced: Traced, collector: Collector, stream: bool) -> None:
    engine = FakeEngine(token_seconds=5)
    with traced(engine) as url:
        asyncio.run(leave(url, engine, stream=stream))
    assert [span.name for span in collector.spans] == ["chat fake", "round 0"]
    assert [(span.status.code, span.status.message) for span in collector.spans] == 2 * [(ERROR, "cancelled")]


async def leave(url: str, engine: FakeEngine, meanwhile: Callable[[], object] = bool, **body: Any) -> None:
    """Ask, and go away while the Leader is at work."""
    async with asyncio.timeout(20), httpx2.AsyncClient() as client:
        asking = asyncio.ensure_future(client.post(f"{url}/v1/chat/completions", json=ASK | body))
        await until(lambda: engine.leader.running > 0, 0.01)
        await asyncio.to_thread(meanwhile)
        asking.cancel()
        await until(lambda: not engine.leader.running, 0.01)


def test_a_bug_is_told_by_its_code(traced: Traced, collector: Collector) -> None:
    def reply(turns: Sequence[Turn]) -> Said:
        raise ZeroDivisionError

    with traced(FakeEngine(reply)) as url:
        assert chat(url).status_code == 500
    assert {span.status.message for span in collector.spans} == {"internal_error"}


def test_the_service_is_named_by_opentelemetrys_own_variable(
    traced: Traced, collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    with traced() as url:
        chat(url)
    monkeypatch.setenv("OTEL_SERVICE_NAME", "mine")
    with traced() as url:
        chat(url)
    names = [attributes(resource.resource)["service.name"] for resource in collector.resources]
    assert names == ["slhf-server", "mine"]


def test_sampling_is_opentelemetrys_own(traced: Traced, collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_always_off")
    with traced() as url:
        chat(url)
        chat(url, {"traceparent": f"00-{TRACE}-{PARENT}-01"})
    assert {span.trace_id.hex() for span in collector.spans} == {TRACE}


def test_a_collector_that_takes_nothing_is_told_of_once_until_it_recovers(
    traced: Traced, collector: Collector, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    caplog.set_level(logging.INFO)
    collector.status = 500
    with traced() as url:
        for _ in range(3):
            assert chat(url).status_code == 200
            assert collector.refused.acquire(timeout=10)
        collector.status = 200
        chat(url)
    failed, recovered = (record for record in caplog.records if "export" in record.name or "tracing" in record.name)
    assert (failed.levelname, recovered.levelname) == ("ERROR", "INFO")
    assert "500" in failed.message


def test_a_collector_that_is_not_there_disturbs_nobody(
    traced: Traced, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1.5")
    with traced(otlp_endpoint="http://127.0.0.1:9/v1/traces") as url:  # the port of "discard": nobody listens
        assert [chat(url).status_code for _ in range(3)] == [200, 200, 200]
    assert len([record for record in caplog.records if record.levelno >= logging.WARNING]) == 1


def test_a_collector_that_never_answers_does_not_hold_up_the_end(collector: Collector) -> None:
    """The SDK would wait for 10 s; `running` fails where the server takes that long."""
    collector.answers.clear()
    with running(create_app(Settings(otlp_endpoint=collector.url), FakeEngine().open)) as url:
        assert chat(url).status_code == 200


@pytest.mark.parametrize("url", ["localhost:4318", "ftp://127.0.0.1/v1/traces", "http://", "http://a:b/", ""])
def test_a_bad_endpoint_is_refused_by_name(url: str) -> None:
    with pytest.raises(SettingsError, match=r"^otlp_endpoint: "):
        load_settings(["--otlp-endpoint", url])


@pytest.mark.parametrize("variable", ["OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_SPAN_ATTRIBUTE_COUNT_LIMIT"])
def test_a_bad_variable_of_opentelemetry_is_refused(monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    monkeypatch.setenv(variable, "-1")
    with pytest.raises(SettingsError, match=r"^otlp_endpoint: "):
        create_app(Settings(otlp_endpoint="http://127.0.0.1:9/"), FakeEngine().open)


def test_the_log_hides_the_endpoints_password() -> None:
    shown = Settings(otlp_endpoint="https://me:secret@collector/v1/traces").redacted()
    assert shown["otlp_endpoint"] == "https://***@collector/v1/traces"


OFF = """
import asyncio, sys
import httpx2
from slhf_server.app import create_app
from slhf_server.models.fake import FakeEngine
from slhf_server.settings.server import Settings

async def ask():
    app = create_app(Settings(), FakeEngine().open)
    async with app.router.lifespan_context(app):
        await app.state.service.loading()
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://slhf") as client:
            headers = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
            answer = await client.post("/v1/refine", json={"prompt": "what"}, headers=headers)
    kept_out = ("opentelemetry.sdk", "opentelemetry.exporter")
    print(answer.status_code, sorted(name for name in sys.modules if name.startswith(kept_out)))

asyncio.run(ask())
"""


def test_without_traces_opentelemetrys_sdk_is_not_imported(python: Run) -> None:
    assert python(OFF).stdout == "200 []\n"
