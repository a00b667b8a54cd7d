"""The three metrics of upstreams, whose names are part of the contract (docs/api.md)."""

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram


class UpstreamMetrics:
    """The metrics of all upstreams of a server, in the server's registry."""

    def __init__(self, registry: CollectorRegistry, latency_buckets: Sequence[float]) -> None:
        """`latency_buckets` are upper bounds in seconds."""
        self.latency = Histogram(
            "slhf_upstream_request_latency_seconds",
            "One answer of an upstream, seconds.",
            ("upstream",),
            buckets=latency_buckets,
            registry=registry,
        )
        self.errors = Counter(
            "slhf_upstream_errors", "Attempts that failed.", ("upstream", "error_type"), registry=registry
        )
        self.breaker = Gauge(
            "slhf_upstream_breaker_open", "1 while an upstream is left alone.", ("upstream",), registry=registry
        )
