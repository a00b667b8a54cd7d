"""The dashboards as they are committed, and their queries as Grafana would send them."""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.deploy.monitoring.prometheus import ROOT, Prometheus

FOLDER = ROOT / "deploy" / "grafana" / "dashboards"
NAMES = ("refinement", "engine")
EVERYTHING: Mapping[str, str] = {}

_METRIC = re.compile(r"\b(?:(?:slhf|process)[_:]\w[\w:]*|vllm:\w+|up|ALERTS|scrape_\w+)\b")
_SELECTOR = re.compile(r"([a-zA-Z_][\w:]*)\{([^}]*)\}")
_MATCHER = re.compile(r'(\w+)(?:=~|!~|!=|=)"')
_QUOTED = re.compile(r'"[^"]*"')


@dataclass(frozen=True)
class Variable:
    name: str
    label: str
    metric: str

    @classmethod
    def read(cls, variable: Mapping[str, Any]) -> "Variable":
        found = re.fullmatch(r"label_values\((.+), (\w+)\)", variable["query"]["query"])
        assert found is not None, variable
        return cls(variable["name"], found[2], found[1])


def dashboard(name: str) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return loaded


def panels(name: str) -> list[dict[str, Any]]:
    return [panel for panel in dashboard(name)["panels"] if panel["type"] != "row"]


def variables(name: str) -> list[Variable]:
    return [Variable.read(one) for one in dashboard(name)["templating"]["list"] if one["type"] == "query"]


def queries(name: str) -> list[tuple[str, str]]:
    """Title of the panel and PromQL, as written."""
    return [(panel["title"], target["expr"]) for panel in panels(name) for target in panel["targets"]]


def marks(name: str) -> list[str]:
    """PromQL of what is marked on all panels; its answer is mostly empty."""
    return [mark["expr"] for mark in dashboard(name)["annotations"]["list"]]


def filled_in(expr: str, chosen: Mapping[str, str] = EVERYTHING, interval: str = "1h") -> str:
    """With the variables' values; those not chosen stand for everything, as Grafana's "All" does here."""
    times = {"__rate_interval": interval, "__interval": interval, "__interval_ms": "15000"}
    return re.sub(r"\$(\w+)", lambda found: times.get(found[1]) or chosen.get(found[1], ".*"), expr)


def metrics(expr: str) -> set[str]:
    """The names of metrics in a piece of PromQL."""
    return set(_METRIC.findall(_QUOTED.sub('""', expr)))


def selectors(expr: str) -> Iterator[tuple[str, set[str]]]:
    """Each metric with the labels it is filtered by."""
    for name, matchers in _SELECTOR.findall(expr):
        yield name, set(_MATCHER.findall(matchers))


def empty(prometheus: Prometheus, name: str, chosen: Mapping[str, str] = EVERYTHING) -> list[str]:
    """Queries without a number for an answer."""

    def has_numbers(expr: str) -> bool:
        return any(math.isfinite(value) for _, value in prometheus.query(filled_in(expr, chosen)))

    return [f"{title}: {expr}" for title, expr in queries(name) if not has_numbers(expr)]


def unknown(prometheus: Prometheus, exprs: Iterable[str]) -> set[str]:
    """Metrics that Prometheus has never seen, and filters on labels that a metric lacks."""
    names, labels = set(prometheus.values("__name__")), prometheus.labels()
    found: set[str] = set()
    for expr in exprs:
        found |= metrics(expr) - names
        for metric, filtered in selectors(expr):
            found |= {f"{metric}: {label}" for label in filtered - labels.get(metric, filtered)}
    return found
