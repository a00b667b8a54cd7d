"""The metrics of verdicts, whose names are part of the contract (docs/api.md)."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from slhf.verdicts import Outcome
from slhf_server.verdicts.record import Record
from slhf_server.verdicts.win_rate import interval

_WORDS: Mapping[Outcome, str] = {
    "win": "refined",
    "tie": "tie",
    "loss": "draft",
    "both_bad": "both_bad",
    "abstained": "unreadable",
}
"""As observability/metrics.py has them for verdicts of requests."""


class VerdictMetrics:
    """The metrics of all verdicts of a server, in the server's registry."""

    def __init__(self, registry: CollectorRegistry, verdicts: Counter) -> None:
        """`verdicts` counts those of requests, too."""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(name, text, ("model_name", *labels), registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(name, text, ("model_name",), registry=registry)

        self._verdicts = verdicts
        self.shadow = counter("slhf_shadow", "Sampled requests of models in shadow mode.", "result", "reason")
        self.tokens = counter("slhf_shadow_tokens", "Tokens spent in the shadow.", "phase")
        self.queue = gauge("slhf_shadow_queue", "Refinements waiting in the shadow.")
        self.low = gauge("slhf_win_rate_low", "Of the win rate in the shadow: the interval's lower end.")
        self.high = gauge("slhf_win_rate_high", "Of the win rate in the shadow: the interval's upper end.")

    def count(self, record: Record) -> None:
        """Count a verdict that is kept."""
        contradicts = record.outcome == "tie" and record.consistent is False
        word = "inconsistent" if contradicts else _WORDS[record.outcome]
        self._verdicts.labels(record.model, record.judge, record.source, word).inc()

    def show_win_rate(self, model: str, outcomes: Mapping[str, int]) -> None:
        """Show the interval of a shadow's win rate."""
        low, high = interval(outcomes.get("win", 0), outcomes.get("loss", 0))
        self.low.labels(model).set(low)
        self.high.labels(model).set(high)
