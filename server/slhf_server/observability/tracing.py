"""OpenTelemetry traces, where `otlp_endpoint` asks for them: a span per refinement, with a child per round.

They are made of the loop's events (service.py), and the loop knows nothing of them. Spans are made and ended by hand
and never become the current one: a context variable set before a yield would be reset in another task's context (PEP
567, PEP 789).

Attributes follow the semantic conventions for generative AI. Their names are written out: the Python package of the
conventions marks its constants as deprecated, because the conventions have moved to a repository of their own.
"""

import json
import logging
import threading
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import version

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExportResult
from opentelemetry.trace import Span, SpanKind, Status, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from slhf.wire import Round, RoundCompleted, RoundJudged, RoundStarted, Usage
from slhf_server.errors import InternalError, RequestError
from slhf_server.refinement.job import Job
from slhf_server.refinement.loop import RefinementEvent
from slhf_server.refinement.state import RefinementResult
from slhf_server.settings.problem import SettingsError

_FLUSH_S = 3.0  # how long the server's end waits for the collector
_logger = logging.getLogger(__name__)
_exporters_logger = logging.getLogger(OTLPSpanExporter.__module__)


class Tracing:
    """Sends the spans of refinements to a collector, in batches and from a thread of its own.

    Raises SettingsError for an `OTEL_*` variable that cannot work.
    """

    def __init__(self, endpoint: str, *, content: bool) -> None:
        self._content = content
        self._refinements: dict[Job, _Refinement] = {}
        try:
            self._provider = _provider(endpoint)
        except (ValueError, RuntimeError) as exc:
            raise SettingsError(f"otlp_endpoint: OpenTelemetry's environment variables (OTEL_*): {exc}") from exc
        self._tracer = self._provider.get_tracer("slhf_server", version("slhf-server"))

    @asynccontextmanager
    async def watching(self, jobs: Sequence[Job]) -> AsyncGenerator[None, None]:
        """Open a span for each job; what ends the request, in the queue too, ends the spans that are still open."""
        for job in jobs:
            self._refinements[job] = _Refinement(self._tracer, job, self._content)
        try:
            yield
        except BaseException as exc:
            for job in jobs:
                self._refinements[job].fail(exc)
            raise
        finally:
            for job in jobs:
                del self._refinements[job]

    def take(self, job: Job, event: RefinementEvent) -> None:
        """Take an event of a watched job; pieces of text may be left out."""
        self._refinements[job].take(event)

    def failed(self, job: Job, exc: Exception) -> None:
        """Note that a watched job has failed; the other chains of its request go on."""
        self._refinements[job].fail(exc)

    def shutdown(self) -> None:
        """Send what is left. Blocks for a few seconds at most; a collector that takes longer loses the rest."""
        flushing = threading.Thread(target=self._provider.shutdown, daemon=True)
        flushing.start()
        flushing.join(_FLUSH_S)


class _Refinement:
    """The span of one refinement, and that of the round that runs."""

    def __init__(self, tracer: Tracer, job: Job, content: bool) -> None:
        self._tracer = tracer
        self._content = content
        self._number = 0
        self._round: Span | None = None
        self._span = tracer.start_span(
            f"chat {job.model}",
            TraceContextTextMapPropagator().extract(job.trace),
            SpanKind.SERVER,
            {
                **_request(job.model),
                "slhf.request_id": job.request_id,
                "slhf.endpoint": job.endpoint,
                "slhf.draft_source": job.draft_source,
            },
        )
        if content:
            messages = [_message(turn.role, turn.text) for turn in job.turns]
            self._span.set_attribute("gen_ai.input.messages", _json(messages))
        if content and job.draft is not None:
            self._span.set_attribute("slhf.draft", _encodable(job.draft))

    def take(self, event: RefinementEvent) -> None:
        if isinstance(event, RoundStarted):
            self._start_round(event)
        elif isinstance(event, RoundCompleted):
            self._finish_round(event)
        elif isinstance(event, RoundJudged):
            self._judge(event)
        elif isinstance(event, RefinementResult):
            self._finish(event)

    def fail(self, exc: BaseException) -> None:
        """End the open spans with this exception; do nothing where they have ended."""
        for span in (self._round, self._span):
            if span is not None and span.is_recording():
                _fail(span, _code(exc))
                span.end()

    def _start_round(self, event: RoundStarted) -> None:
        self._number = event.round
        self._round = self._tracer.start_span(
            f"round {event.round}",
            set_span_in_context(self._span, Context()),
            attributes={**_request(event.model), "slhf.round": event.round, "slhf.role": event.role},
        )

    def _finish_round(self, finished: Round) -> None:
        """End the round's span. A client's draft has none, because no model generated it."""
        if self._round is None:
            return
        self._answer(self._round, finished.text, finished.finish_reason, finished.usage)
        if finished.edit_ratio is not None:
            self._round.set_attribute("slhf.edit_ratio", finished.edit_ratio)
        self._round.end()
        self._round = None

    def _judge(self, judged: RoundJudged) -> None:
        """A span of a verdict, which is told of once it is there."""
        ended = time.time_ns()
        attributes = _request(judged.judge) | {"gen_ai.operation.name": "evaluate"}
        span = self._tracer.start_span(
            f"judge {judged.judge}",
            set_span_in_context(self._span, Context()),
            attributes={**attributes, "slhf.round": judged.round, **_tokens(judged.usage)},
            start_time=ended - int(judged.latency_ms * 1e6),
        )
        if judged.p is not None:
            span.set_attribute("slhf.p", judged.p)
        if judged.consistent is not None:
            span.set_attribute("slhf.consistent", judged.consistent)
        if judged.failed:
            _fail(span, "judge_failed")
        span.end(ended)

    def _finish(self, result: RefinementResult) -> None:
        report = result.refinement
        if report.returned_round == self._number:  # a last round that was streamed and cut stands
            self._finish_round(report.rounds[-1])
        self._cut(result)
        self._answer(self._span, result.text, result.finish_reason, result.usage)
        self._span.set_attributes({"slhf.stop_reason": report.stop_reason, "slhf.rounds_run": report.rounds_run})
        self._span.end()

    def _cut(self, result: RefinementResult) -> None:
        """End the span of the round that was running when the refinement ended early, if there was one."""
        if self._round is None:
            return
        report = result.refinement
        self._round.set_attributes(_tokens([report.usage.draft, *report.usage.rounds][self._number]))
        self._round.set_attribute("slhf.stop_reason", report.stop_reason)
        if report.stop_reason == "error":
            _fail(self._round, "error")
        self._round.end()

    def _answer(self, span: Span, text: str, finish_reason: str, usage: Usage) -> None:
        span.set_attribute("gen_ai.response.finish_reasons", [finish_reason])
        span.set_attributes(_tokens(usage))
        if self._content:
            message = _message("assistant", text) | {"finish_reason": finish_reason}
            span.set_attribute("gen_ai.output.messages", _json([message]))


class _Exporter(OTLPSpanExporter):
    """Logs once why the collector takes no spans, and once when it takes them again."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self._told = False
        _exporters_logger.addFilter(self._tell_once)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        result = super().export(spans)
        if result is SpanExportResult.SUCCESS and self._told:
            self._told = False
            _logger.info("the collector takes traces again")
        return result

    def shutdown(self) -> None:
        super().shutdown()  # type: ignore[no-untyped-call]
        _exporters_logger.removeFilter(self._tell_once)

    def _tell_once(self, record: logging.LogRecord) -> bool:
        told, self._told = self._told, True
        return not told


def _provider(endpoint: str) -> TracerProvider:
    resource = Resource.create({SERVICE_NAME: "slhf-server", SERVICE_VERSION: version("slhf-server")})
    resource = resource.merge(OTELResourceDetector().detect())  # OTEL_SERVICE_NAME and the like win
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    logging.getLogger("opentelemetry.util.re").addFilter(_without_header)
    provider.add_span_processor(BatchSpanProcessor(_Exporter(endpoint)))
    # From here on the SDK would warn of every bad header of a client, and of every span that a dead collector costs.
    _exporters_logger.setLevel(logging.getLogger().level)
    logging.getLogger("opentelemetry").setLevel(logging.ERROR)
    return provider


def _without_header(record: logging.LogRecord) -> bool:
    """Cut from a record the header of OTEL_EXPORTER_OTLP_HEADERS that the SDK quotes, because headers hold keys."""
    record.args = ("***",)
    return True


def _request(model: str) -> dict[str, str]:
    """Attributes of every span. `gen_ai.system` is the older name of the provider, which many viewers still read."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "slhf",
        "gen_ai.system": "slhf",
        "gen_ai.request.model": model,
    }


def _tokens(usage: Usage) -> Mapping[str, int]:
    return {
        "gen_ai.usage.input_tokens": usage.prompt_tokens,
        "gen_ai.usage.output_tokens": usage.completion_tokens,
    }


def _fail(span: Span, code: str) -> None:
    """Mark a span as failed by the code alone, because an error's message may quote what the client sent."""
    span.set_attribute("error.type", code)
    span.set_status(Status(StatusCode.ERROR, code))


def _code(exc: BaseException) -> str:
    if isinstance(exc, RequestError):
        return exc.name
    return str(InternalError.code) if isinstance(exc, Exception) else "cancelled"


def _message(role: str, text: str) -> dict[str, object]:
    """A message in the conventions' shape."""
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def _json(messages: Sequence[Mapping[str, object]]) -> str:
    return _encodable(json.dumps(messages, ensure_ascii=False))


def _encodable(text: str) -> str:
    """The text without halves of surrogate pairs, which a JSON body may hold and protobuf may not."""
    return text.encode(errors="replace").decode()
