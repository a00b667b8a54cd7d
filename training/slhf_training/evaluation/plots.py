"""What the report's pictures are made of: heat maps, and curves with their intervals."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slhf_training.evaluation.statistics import Numbers

Row = Mapping[str, Any]


def curve(axes: Axes, name: str, estimates: Sequence[Row | None], style: str, colour: Any = None) -> Any:
    """Returns its colour."""
    values = [value_of(estimate) for estimate in estimates]
    places = range(len(values))
    (line,) = axes.plot(places, values, style, label=name, color=colour, markersize=4)
    low, high = ([value_of(estimate, end) for estimate in estimates] for end in ("low", "high"))
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    return line.get_color()


def heat_map(values: Numbers, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    figure = Figure(figsize=(3 + 0.9 * len(columns), 2 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title, fontsize="medium")
    for (row, column), value in _present(values):
        axes.annotate(f"{value:.2f}", (column, row), ha="center", va="center")
    return figure


def value_of(estimate: Row | None, end: str = "value") -> float:
    """NaN where there is none."""
    return float("nan") if estimate is None else float(estimate[end])


def _present(values: Numbers) -> Iterator[tuple[tuple[int, ...], float]]:
    return ((place, value) for place, value in np.ndenumerate(values) if not np.isnan(value))
