"""What both dashboards share: variables, links, times, the marks of alerts and restarts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from grafana_foundation_sdk.builders import dashboard
from grafana_foundation_sdk.cog.builder import Builder
from grafana_foundation_sdk.models.dashboard import (
    DashboardCursorSync,
    DashboardLinkType,
    Panel,
    VariableOption,
    VariableRefresh,
    VariableSort,
)
from panels import SOURCE
from promql import selector

RULES = Path(__file__).resolve().parents[2] / "prometheus" / "rules"
Section = tuple[str, list[Builder[Panel]]]
"""A row's title, or none, and what stands below it."""
TITLES = {"slhf-refinement": "Refinement", "slhf-engine": "Engine"}


@dataclass(frozen=True)
class Variable:
    """A choice at the dashboard's top."""

    label: str
    title: str
    metric: str  # one that has the label
    name: str = ""  # in queries; the label's where there is none


WHERE = (
    Variable("job", "Job", "slhf_build_info"),
    Variable("instance", "Server", 'slhf_build_info{job=~"$job"}'),
)


def objective(name: str) -> float:
    """A number that the alerts compare with: slhf:objective_`name`."""
    rules = yaml.safe_load((RULES / "objectives.yml").read_text(encoding="utf-8"))["groups"][0]["rules"]
    [expr] = [rule["expr"] for rule in rules if rule["record"] == f"slhf:objective_{name}"]
    return float(expr.removeprefix("vector(").removesuffix(")"))


def board(
    uid: str, description: str, variables: Sequence[Variable], sections: Sequence[Section]
) -> dashboard.Dashboard:
    made = (
        dashboard.Dashboard(TITLES[uid])
        .uid(uid)
        .description(description)
        .tags(["slhf"])
        .time("now-1h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(DashboardCursorSync.CROSSHAIR)
        .readonly()
        .annotation(_restarts())
        .with_variable(dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus"))
        .links([_link(other) for other in TITLES if other != uid])
    )
    for variable in (*WHERE, *variables):
        made.with_variable(_variable(variable))
    for title, panels in sections:
        if title:
            made.with_row(dashboard.Row(title))
        for panel in panels:
            made.with_panel(panel)
    return made


def _variable(variable: Variable) -> dashboard.QueryVariable:
    name = variable.name or variable.label
    return (
        dashboard.QueryVariable(name)
        .label(variable.title)
        .datasource(SOURCE)
        .query({"qryType": 1, "query": f"label_values({variable.metric}, {variable.label})", "refId": name})
        .refresh(VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(VariableSort.NATURAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")  # matches samples without the label too
        .current(VariableOption(selected=True, text=["All"], value=["$__all"]))
    )


def _link(uid: str) -> dashboard.DashboardLink:
    return (
        dashboard.DashboardLink(TITLES[uid])
        .type(DashboardLinkType.LINK)
        .url(f"/d/{uid}")
        .tooltip(f"The dashboard {TITLES[uid]}, for the same time and servers")
        .include_vars(True)
        .keep_time(True)
    )


def _restarts() -> dashboard.AnnotationQuery:
    """A mark where a server began: what changed then explains many a curve."""
    return (
        dashboard.AnnotationQuery()
        .name("Server starts")
        .datasource(SOURCE)
        .enable(True)
        .icon_color("blue")
        .expr(f"time() - {selector('process_start_time_seconds')} < $__interval_ms / 1000 + 60")
    )
