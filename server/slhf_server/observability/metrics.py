"""Prometheus metrics: prefix `slhf_`, vLLM's stems, units and buckets. Labels are bounded: no user, prompt or key."""

from collections.abc import Iterable
from functools import partial
from typing import Any, TypeVar

from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    disable_created_metrics,
    generate_latest,
)

from slhf.wire import RoundCompleted, RoundDelta, RoundJudged
from slhf_server.access.admission import Admission
from slhf_server.access.keys import Keyring
from slhf_server.observability.key_usage import KeyUsage
from slhf_server.refinement.edits import edit_ratio
from slhf_server.refinement.state import RefinementResult
from slhf_server.refinement.stops import RULES

LATENCY = (
    0.3,
    0.5,
    0.8,
    1.0,
    1.5,
    2.0,
    2.5,
    5.0,
    10.0,
    15.0,
    20.0,
    30.0,
    40.0,
    50.0,
    60.0,
    120.0,
    240.0,
    480.0,
    960.0,
)
_FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1.0,
    2.5,
    5.0,
    7.5,
    10.0,
    20.0,
    40.0,
    80.0,
)
_OVERHEAD = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_ROUNDS = (0, 1, 2, 3, 4, 5, 6, 7, 8)
_SHARE = tuple(tenth / 10 for tenth in range(1, 11))
_LENGTH_RATIO = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.1, 1.3, 1.5, 2.0, 3.0, 5.0, 10.0)


disable_created_metrics()  # type: ignore[no-untyped-call]  # `_created` series would make the page a fifth longer

Metric = TypeVar("Metric", Counter, Histogram)


class Metrics:
    """One server's metrics in a registry of its own, shown on one page with vLLM's (the process's default registry)."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(name, text, ("model_name", *labels), buckets=buckets, registry=registry)

        def counter(name: str, text: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name, text, ("model_name", *labels), registry=registry)

        self.success = counter("slhf_request_success", "Finished requests.", ("endpoint", "finish_reason"))
        self.failure = counter("slhf_request_failure", "Requests answered by an error.", ("endpoint", "error_type"))
        self.e2e = histogram("slhf_e2e_request_latency_seconds", "Whole request, seconds.", LATENCY)
        self.first_token = histogram("slhf_time_to_first_token_seconds", "Streamed: to the first token.", _FIRST_TOKEN)
        self.queue = histogram("slhf_request_queue_time_seconds", "Waiting for a place, seconds.", LATENCY)
        self.overhead = histogram("slhf_overhead_seconds", "Time that is neither engine nor upstream.", _OVERHEAD)
        self.round_latency = histogram("slhf_round_latency_seconds", "One round, seconds.", LATENCY, ("role", "round"))
        self.request_rounds = histogram("slhf_request_rounds", "Follower rounds per request.", _ROUNDS)
        self.rounds = counter("slhf_rounds", "Follower rounds by what came of them.", ("outcome",))
        self.lost = counter("slhf_rounds_lost", "Rounds that left their draft, by what was lost.", ("part",))
        self.stop_reason = counter("slhf_stop_reason", "Why refinements ended.", ("reason",))
        self.fallback = counter("slhf_fallback", "Refinements ended early with an earlier text.", ("reason",))
        self.prompt_tokens = counter("slhf_prompt_tokens", "Prompt tokens.", ("phase",))
        self.generation_tokens = counter("slhf_generation_tokens", "Generated tokens.", ("phase",))
        self.cached_tokens = counter("slhf_prompt_cached_tokens", "Prompt tokens from the prefix cache.", ("phase",))
        self.edit_ratio = histogram("slhf_draft_edit_ratio", "Share of words changed, draft to answer.", _SHARE)
        self.length_ratio = histogram("slhf_draft_length_ratio", "Words of answer / words of draft.", _LENGTH_RATIO)
        self.draft_source = counter("slhf_draft_source", "Who wrote the draft.", ("source",))
        self.tools_ignored = counter("slhf_tools_ignored", "Refinements whose Leader could not call the tools.")
        self.judge_latency = histogram("slhf_judge_latency_seconds", "One verdict, seconds.", LATENCY, ("judge",))
        self.judge_tokens = counter("slhf_judge_tokens", "Tokens of judges.", ("judge", "kind"))
        self.verdicts = counter("slhf_verdicts", "What judges said of rounds.", ("judge", "use", "verdict"))
        self.selected = counter("slhf_selected_round", "Rounds that a judge chose as the answer.", ("judge", "round"))
        self.limits_store_errors = Counter(
            "slhf_limits_store_errors", "Questions that the store of limits did not answer.", registry=registry
        )
        self._children: dict[tuple[object, tuple[str, ...]], Any] = {}
        self._build = Gauge("slhf_build_info", "Versions.", ("version",), registry=registry)
        self._model = Gauge("slhf_model_info", "Loaded weights.", ("role", "revision"), registry=registry)

    def watch(self, admission: Admission, model_names: Iterable[str]) -> None:
        """Read the queue's gauges at scrape time."""
        for name, text, counts in (
            ("slhf_num_requests_running", "Refinements at work.", admission.running),
            ("slhf_num_requests_waiting", "Refinements waiting for a place.", admission.waiting),
        ):
            gauge = Gauge(name, text, ("model_name",), registry=self.registry)
            for model in model_names:
                gauge.labels(model).set_function(partial(counts.__getitem__, model))

    def watch_keys(self, keyring: Keyring) -> None:
        """Tell what each API key uses, by its name."""
        self.registry.register(KeyUsage(keyring))

    def child(self, metric: Metric, *labels: str) -> Metric:
        """`metric.labels(...)`, kept, because its checks are half of what counting costs. Labels are bounded."""
        child: Metric | None = self._children.get((metric, labels))
        if child is None:
            child = self._children[metric, labels] = metric.labels(*labels)
        return child

    def request_failed(self, model: str, endpoint: str, error: str) -> None:
        """Count an error's answer by its name; `model` is empty where the request was refused before it was known."""
        self.child(self.failure, model, endpoint, error).inc()

    def limits_store_failed(self) -> None:
        """Count a question that the store of limits did not answer."""
        self.limits_store_errors.inc()

    def request_queued(self, model: str, seconds: float) -> None:
        """Note that a request has waited for its place for so many seconds."""
        self.child(self.queue, model).observe(seconds)

    def take(self, model: str, event: object, seconds: float) -> None:
        """Count what an event of a refinement says, `seconds` after its request came."""
        if isinstance(event, RoundDelta):
            self.first_token_came(model, seconds)
        elif isinstance(event, RoundCompleted):
            self.round_completed(model, event)
        elif isinstance(event, RoundJudged):
            self.round_judged(model, event)

    def first_token_came(self, model: str, seconds: float) -> None:
        """Note how many seconds after it was planned a streamed request showed its first text."""
        self.child(self.first_token, model).observe(seconds)

    def request_succeeded(self, model: str, endpoint: str, finish_reason: str, seconds: float) -> None:
        self.child(self.success, model, endpoint, finish_reason).inc()
        self.child(self.e2e, model).observe(seconds)

    def build(self, version: str) -> None:
        self._build.labels(version).set(1)

    def loaded(self, revision: str) -> None:
        for role in ("leader", "follower"):
            self._model.labels(role, revision).set(1)

    def round_completed(self, model: str, finished: RoundCompleted) -> None:
        if finished.role == "client":
            return  # no model computed it
        self.child(self.round_latency, model, finished.role, _number(finished.round)).observe(finished.latency_ms / 1e3)

    def round_judged(self, model: str, judged: RoundJudged) -> None:
        self.child(self.verdicts, model, judged.judge, "select", _verdict(judged)).inc()
        self.child(self.judge_latency, model, judged.judge).observe(judged.latency_ms / 1e3)
        tokens = {"prompt": judged.usage.prompt_tokens, "generation": judged.usage.completion_tokens}
        for kind, number in tokens.items():
            self.child(self.judge_tokens, model, judged.judge, kind).inc(number)

    def refinement_ended(self, model: str, result: RefinementResult) -> None:
        refinement = result.refinement
        self.child(self.stop_reason, model, refinement.stop_reason).inc()
        self.child(self.request_rounds, model).observe(refinement.rounds_run)
        self.child(self.draft_source, model, refinement.draft_source).inc()
        self.child(self.overhead, model).observe(result.overhead_ms / 1e3)
        if refinement.stop_reason not in ("rounds_done", "disabled", "shadowed", *RULES):
            self.child(self.fallback, model, refinement.stop_reason).inc()
        if refinement.tools_ignored:
            self.child(self.tools_ignored, model).inc()
        if refinement.selection is not None:
            self.child(self.selected, model, refinement.selection.judge, _number(refinement.selection.round)).inc()
        self._count_tokens(model, result)
        self._count_rounds(model, result)
        self._compare(model, result)

    def page(self) -> bytes:
        """The page in Prometheus' text format: our metrics, then vLLM's and the process's own."""
        return generate_latest(self.registry) + generate_latest(REGISTRY)

    def _count_tokens(self, model: str, result: RefinementResult) -> None:
        usage = result.refinement.usage
        for phase, usages in (("draft", [usage.draft]), ("refine", usage.rounds)):
            for one in usages:
                self.child(self.prompt_tokens, model, phase).inc(one.prompt_tokens)
                self.child(self.generation_tokens, model, phase).inc(one.completion_tokens)
                self.child(self.cached_tokens, model, phase).inc(one.prompt_tokens_details.cached_tokens)

    def _count_rounds(self, model: str, result: RefinementResult) -> None:
        refinement = result.refinement
        before = result.draft
        for one in refinement.rounds[1:]:
            same = "unchanged" if one.text == before else "changed"
            self.child(self.rounds, model, same if one.lost is None else "lost").inc()
            if one.lost is not None:
                self.child(self.lost, model, one.lost).inc()
            before = one.text
        cut_off = len(refinement.usage.rounds) - refinement.rounds_run
        self.child(self.rounds, model, "error" if refinement.stop_reason == "error" else "discarded").inc(cut_off)

    def _compare(self, model: str, result: RefinementResult) -> None:
        """Observe the drift, which is how far the returned text is from the draft."""
        if result.refinement.applied:
            known = result.refinement.rounds[1].edit_ratio if result.refinement.returned_round == 1 else None
            changed = edit_ratio(result.draft, result.text) if known is None else known
            self.child(self.edit_ratio, model).observe(changed)
            ratio = len(result.text.split()) / max(1, len(result.draft.split()))
            self.child(self.length_ratio, model).observe(ratio)


def _number(of_round: int) -> str:
    return str(of_round) if of_round < 8 else "8+"


def _verdict(judged: RoundJudged) -> str:
    """A verdict in a word. `draft` stands for the best text before the round, `refined` for the round's own."""
    if judged.failed:
        return "failed"
    if judged.p is None:
        return "inconsistent" if judged.consistent is False else "unreadable"
    return "tie" if judged.p == 0.5 else "refined" if judged.p > 0.5 else "draft"
