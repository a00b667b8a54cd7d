"""PromQL for the dashboards: each selector carries the filters of the labels that its metric has, and of no others.

A filter on a label that a metric lacks would empty the panel as soon as somebody chooses a value.
"""

WHERE = ("job", "instance")  # what Prometheus adds to every sample
# vLLM's model_name is the bundle's, and not that of a served model, which the link from the other dashboard hands over.
VLLM_VARIABLES = {"model_name": "engine_model"}

SLHF_LABELS = {
    "slhf_num_requests_running": ("model_name",),
    "slhf_num_requests_waiting": ("model_name",),
    "slhf_request_success_total": ("model_name", "endpoint", "finish_reason"),
    "slhf_request_failure_total": ("model_name", "endpoint", "error_type"),
    "slhf_e2e_request_latency_seconds": ("model_name",),
    "slhf_time_to_first_token_seconds": ("model_name",),
    "slhf_request_queue_time_seconds": ("model_name",),
    "slhf_overhead_seconds": ("model_name",),
    "slhf_round_latency_seconds": ("model_name", "role", "round"),
    "slhf_request_rounds": ("model_name",),
    "slhf_rounds_total": ("model_name", "outcome"),
    "slhf_stop_reason_total": ("model_name", "reason"),
    "slhf_fallback_total": ("model_name", "reason"),
    "slhf_prompt_tokens_total": ("model_name", "phase"),
    "slhf_generation_tokens_total": ("model_name", "phase"),
    "slhf_prompt_cached_tokens_total": ("model_name", "phase"),
    "slhf_draft_edit_ratio": ("model_name",),
    "slhf_draft_length_ratio": ("model_name",),
    "slhf_draft_source_total": ("model_name", "source"),
    "slhf_tools_ignored_total": ("model_name",),
    "slhf_key_requests_total": ("key",),
    "slhf_key_prompt_tokens_total": ("key",),
    "slhf_key_generation_tokens_total": ("key",),
    "slhf_shadow_total": ("model_name", "result", "reason"),
    "slhf_shadow_tokens_total": ("model_name", "phase"),
    "slhf_shadow_queue": ("model_name",),
    "slhf_win_rate_low": ("model_name",),
    "slhf_win_rate_high": ("model_name",),
    "slhf_upstream_request_latency_seconds": ("upstream",),
    "slhf_upstream_errors_total": ("upstream", "error_type"),
    "slhf_upstream_breaker_open": ("upstream",),
    "slhf_model_info": ("role",),
}
INTERVAL = "$__rate_interval"


def labels_of(metric: str) -> tuple[str, ...]:
    """Without those that Prometheus adds."""
    if metric.startswith("vllm:"):
        return ("model_name", "engine")
    return SLHF_LABELS.get(metric, ())


def selector(metric: str, suffix: str = "", *fixed: str) -> str:
    """All of a metric that the dashboard's variables admit; `fixed` are further matchers."""
    names = VLLM_VARIABLES if metric.startswith("vllm:") else {}
    filters = [f'{label}=~"${names.get(label, label)}"' for label in (*WHERE, *labels_of(metric))]
    return f"{metric}{suffix}{{{', '.join([*filters, *fixed])}}}"


def total(metric: str, by: str = "", *fixed: str) -> str:
    return f"sum{_by(by)} ({selector(metric, '', *fixed)})"


def rate(metric: str, by: str = "", *fixed: str) -> str:
    """Of a counter, per second."""
    return f"sum{_by(by)} (rate({selector(metric, '', *fixed)}[{INTERVAL}]))"


def share(part: str, whole: str, by: str = "") -> str:
    """Of two counters; 0 where the part was never counted."""
    return f"({rate(part, by)} or 0 * {rate(whole, by)}) / {rate(whole, by)}"


def mean(histogram: str, by: str = "") -> str:
    return f"{_buckets(histogram, '_sum', by)} / {_buckets(histogram, '_count', by)}"


def quantile(level: float, histogram: str, by: str = "") -> str:
    grouped = f"le, {by}" if by else "le"
    return f"histogram_quantile({level}, {_buckets(histogram, '_bucket', grouped)})"


def buckets(histogram: str) -> str:
    """What a heat map is drawn from: how many observations fell into each bucket between two points."""
    return f"sum by (le) (increase({selector(histogram, '_bucket')}[{INTERVAL}]))"


def _buckets(histogram: str, suffix: str, by: str) -> str:
    return f"sum{_by(by)} (rate({selector(histogram, suffix)}[{INTERVAL}]))"


def _by(labels: str) -> str:
    return f" by ({labels})" if labels else ""
