"""Draws a dashboard from a running Prometheus: the same panels, queries, units, colours and places, without Grafana.

python -m tests.deploy.monitoring.draw refinement --minutes 30 --out docs/refinement.png
"""

import argparse
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
from matplotlib import dates

from tests.deploy.monitoring import dashboards
from tests.deploy.monitoring.prometheus import Labels, Prometheus

COLORS = {"green": "#3a8f4d", "orange": "#c77b23", "red": "#c4314b", "blue": "#3767b1"}
PAPER, INK, FAINT = "#181b1f", "#d0d3d9", "#3a3e45"
CELL_INCHES = (0.62, 0.34)  # of Grafana's grid
POINTS = 120

Series = tuple[str, "np.ndarray[Any, Any]"]
"""A legend, and a value for each point in time."""


@dataclass(frozen=True)
class Span:
    """The time that is drawn."""

    prometheus: Prometheus
    end: float
    seconds: float

    @property
    def step(self) -> float:
        return self.seconds / POINTS

    @property
    def interval(self) -> str:
        """Of rates."""
        return f"{max(60, 2 * self.step):.0f}s"

    def at(self) -> "np.ndarray[Any, Any]":
        return self.end - self.seconds + self.step * np.arange(POINTS + 1)

    def series(self, target: Mapping[str, Any]) -> list[Series]:
        expr = dashboards.filled_in(target["expr"], interval=self.interval)
        found = self.prometheus.range(expr, self.end - self.seconds, self.end, self.step)
        return [(legend(target["legendFormat"], labels), self._row(points)) for labels, points in found]

    def _row(self, points: Sequence[tuple[float, float]]) -> "np.ndarray[Any, Any]":
        row = np.full(POINTS + 1, math.nan)
        for at, value in points:
            row[round((at - self.end + self.seconds) / self.step)] = value
        return row


def legend(template: str, labels: Labels) -> str:
    return re.sub(r"\{\{(\w+)\}\}", lambda found: labels.get(found[1], ""), template)


def told(value: float, unit: str) -> str:
    """A number with its unit, as short as Grafana shows it."""
    match unit:
        case _ if math.isnan(value):
            return "idle"
        case "percentunit":
            return f"{value * 100:.3g} %"
        case "s" if value < 1:
            return f"{value * 1e3:.3g} ms"
        case "s" if value >= 120:
            return f"{value / 60:.3g} min"
        case "s":
            return f"{value:.3g} s"
        case "bytes":
            return f"{value / 2**30:.2g} GiB"
        case "reqps" | "ops":
            return f"{value:.3g} /s"
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def draw_number(axes: Any, panel: Mapping[str, Any], span: Span) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    found = span.prometheus.query(dashboards.filled_in(panel["targets"][0]["expr"], interval=span.interval))
    value = found[0][1] if found else math.nan
    passed = [s["color"] for s in defaults["thresholds"]["steps"] if s["value"] is None or value >= s["value"]]
    axes.set_facecolor(COLORS["green" if math.isnan(value) else passed[-1]])
    axes.text(0.5, 0.5, told(value, defaults["unit"]), ha="center", va="center", fontsize=17, color="white")
    _without_ticks(axes)


def draw_lines(axes: Any, panel: Mapping[str, Any], span: Span) -> None:
    found = [series for target in panel["targets"] for series in span.series(target)]
    limits = [series for series in found if series[0].startswith("objective")]
    rest = [series for series in found if series not in limits]
    custom = panel["fieldConfig"]["defaults"]["custom"]
    times = _times(span)
    if custom.get("stacking", {}).get("mode") == "normal" and rest:
        axes.stackplot(times, np.nan_to_num([row for _, row in rest]), labels=[name for name, _ in rest], alpha=0.7)
    else:
        for name, row in rest:
            axes.plot(times, row, label=name, linewidth=1.1)
    for name, row in limits:
        axes.plot(times, row, label=name, linewidth=1, linestyle="--", color=COLORS["red"])
    if not found:
        axes.text(0.5, 0.5, "none", transform=axes.transAxes, ha="center", color=INK)
    _scaled(axes, panel, span)
    _below(axes)


def draw_heat(axes: Any, panel: Mapping[str, Any], span: Span) -> None:
    found = sorted(span.series(panel["targets"][0]), key=lambda series: float(series[0]))
    names = [f"{float(name):g}" for name, _ in found]
    counts = np.diff(np.nan_to_num([row for _, row in found]), axis=0, prepend=0).clip(min=0)
    used = np.flatnonzero(counts.sum(axis=1) > 0.01)
    low, high = (max(used[0] - 1, 0), used[-1] + 2) if used.size else (0, len(names))
    shown = np.where(counts[low:high] > 0.01, counts[low:high], math.nan)
    axes.pcolormesh(_times(span), np.arange(len(shown)), shown, cmap="Oranges_r", shading="nearest")
    axes.set_yticks(range(len(shown)), names[low:high], fontsize=6)
    _clock(axes, span)


def draw_states(axes: Any, panel: Mapping[str, Any], span: Span) -> None:
    found = [series for target in panel["targets"] for series in span.series(target)]
    [mapping] = panel["fieldConfig"]["defaults"]["mappings"]
    for y, (_, row) in enumerate(found):
        for value, state in mapping["options"].items():
            here = row == float(value)
            axes.fill_between(_times(span), y - 0.3, y + 0.3, where=here, color=COLORS[state["color"]], step="mid")
            at = np.flatnonzero(here)
            if at.size:
                axes.text(_times(span)[at[at.size // 2]], y, state["text"], ha="center", va="center", fontsize=7)
    axes.set_yticks(range(len(found)), [name for name, _ in found], fontsize=7)
    axes.set_ylim(-0.7, max(len(found), 3) - 0.3)
    _clock(axes, span)


def draw_listing(axes: Any, panel: Mapping[str, Any], span: Span) -> None:
    columns = panel["transformations"][0]["options"]["include"]["names"]
    rows = span.prometheus.query(dashboards.filled_in(panel["targets"][0]["expr"]))
    cells = [[labels.get(column, "")[:24] for column in columns] for labels, _ in rows]
    table = axes.table(cells or [[""] * len(columns)], colLabels=columns, loc="upper center", cellLoc="left")
    table.auto_set_font_size(False)
    table.set_fontsize(7)
    for cell in table.get_celld().values():
        cell.set(facecolor=PAPER, edgecolor=FAINT)
        cell.get_text().set_color(INK)
    _without_ticks(axes)


KINDS: dict[str, Callable[[Any, Mapping[str, Any], Span], None]] = {
    "stat": draw_number,
    "timeseries": draw_lines,
    "heatmap": draw_heat,
    "state-timeline": draw_states,
    "table": draw_listing,
}


def draw(name: str, span: Span, out: Path) -> None:
    matplotlib.use("Agg")
    everything = dashboards.dashboard(name)["panels"]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in everything)
    size = 24 * CELL_INCHES[0], height * CELL_INCHES[1]
    colors = {
        "text.color": INK,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.edgecolor": FAINT,
    }
    with plt.rc_context(
        {**colors, "axes.edgecolor": FAINT, "axes.facecolor": PAPER, "figure.facecolor": "#111217", "font.size": 7}
    ):
        figure = plt.figure(figsize=size)
        for panel in everything:
            _place(figure, panel, height, size, span)
        figure.savefig(out, dpi=72)
        plt.close(figure)


def _place(figure: Any, panel: Mapping[str, Any], height: int, size: tuple[float, float], span: Span) -> None:
    place = panel["gridPos"]
    left, top = place["x"] / 24, 1 - place["y"] / height
    title = panel["title"]
    if panel["type"] == "row":
        figure.text(left + 0.004, top - 0.2 / size[1], title, fontsize=10, weight="bold", va="center")
        return
    inches = {"stat": (0.06, 0.06, 0.06), "table": (0.1, 0.1, 0.1)}.get(panel["type"], (0.55, 0.62, 0.1))
    width, tall = place["w"] / 24, place["h"] / height
    x0, y0 = left + inches[0] / size[0], top - tall + inches[1] / size[1]
    box = (x0, y0, left + width - inches[2] / size[0] - x0, top - 0.32 / size[1] - y0)
    axes = figure.add_axes(box)
    axes.set_title(title, fontsize=8, loc="left", pad=4)
    KINDS[panel["type"]](axes, panel, span)


def _scaled(axes: Any, panel: Mapping[str, Any], span: Span) -> None:
    defaults = panel["fieldConfig"]["defaults"]
    axes.margins(y=0.15)
    axes.set_ylim(bottom=defaults.get("min"), top=defaults.get("max"))
    axes.yaxis.set_major_locator(plt.MaxNLocator(5))
    axes.yaxis.set_major_formatter(lambda value, _: told(value, defaults["unit"]))
    axes.grid(color=FAINT, linewidth=0.4)
    _clock(axes, span)


def _below(axes: Any) -> None:
    _, labels = axes.get_legend_handles_labels()
    if labels:
        place = {"loc": "upper left", "bbox_to_anchor": (-0.12, -0.1), "ncol": 4}
        axes.legend(**place, fontsize=6, frameon=False, columnspacing=1, handlelength=1)


def _times(span: Span) -> Any:
    return dates.date2num([np.datetime64(round(at), "s") for at in span.at()])


def _clock(axes: Any, span: Span) -> None:
    axes.set_xlim(_times(span)[0], _times(span)[-1])
    axes.xaxis.set_major_locator(dates.AutoDateLocator(minticks=3, maxticks=6))
    axes.xaxis.set_major_formatter(dates.DateFormatter("%H:%M"))


def _without_ticks(axes: Any) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dashboard", choices=dashboards.NAMES)
    parser.add_argument("--prometheus", default="http://127.0.0.1:9090")
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    draw(asked.dashboard, Span(Prometheus(asked.prometheus), time.time(), asked.minutes * 60), asked.out)


if __name__ == "__main__":
    main()
