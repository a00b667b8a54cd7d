"""The report's pictures: matrices as heat maps, rounds as curves."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slhf_training.evaluation.statistics import Numbers

Row = Mapping[str, Any]


def draw(report: Row, folder: Path) -> list[Path]:
    """A PNG for each section that has one; returns the files."""
    pictures: Mapping[str, Callable[[Row], Figure]] = {
        "round_robin": _round_robin,
        "refinement": _refinement,
        "rounds": _rounds,
    }
    written = []
    for name, picture in pictures.items():
        if name in report["sections"]:
            path = folder / f"{name}.png"
            picture(report["sections"][name]).savefig(path, dpi=150)
            written.append(path)
    return written


def _round_robin(section: Row) -> Figure:
    names = list(section["players"])
    values = np.full((len(names), len(names)), np.nan)
    for duel in section["duels"]:
        place = names.index(duel["row"]), names.index(duel["column"])
        values[place] = _value(duel["preference"])
        values[place[::-1]] = 1 - values[place]
    return _heat_map(values, names, names, "The row's answer is preferred to the column's")


def _refinement(section: Row) -> Figure:
    duels = {(duel["leader"], duel["follower"]): _value(duel["preference"]) for duel in section["duels"]}
    leaders, followers = (list(dict.fromkeys(key[side] for key in duels)) for side in (0, 1))
    values = np.array([[duels[one, two] for two in followers] for one in leaders])
    return _heat_map(values, leaders, followers, "The column's refinement is preferred to the row's draft")


def _rounds(section: Row) -> Figure:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    against, words = figure.subplots(1, 2)
    for curve in section["curves"]:
        rows = curve["rounds"]
        name = f"{curve['leader']} > {curve['follower']}"
        preference = [
            {"value": 0.5, "low": 0.5, "high": 0.5},
            *(row["against_draft"]["preference"] for row in rows[1:]),
        ]
        line = _curve(against, name, preference, "o-")
        _curve(against, f"{name}, best so far", [row["best_of"] for row in rows], "s--", line)
        if "best_of_samples" in curve:
            _curve(against, f"{curve['leader']}, best of as many samples", curve["best_of_samples"], "^:", line)
        words.plot(
            range(len(rows)), [np.nan if row["words"] is None else row["words"] for row in rows], "o-", label=name
        )
    against.set(xlabel="round", ylabel="preferred to round 0", ylim=(0, 1))
    words.set(xlabel="round", ylabel="words", ylim=(0, None))
    for axes in (against, words):
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    return figure


def _curve(axes: Axes, name: str, estimates: Sequence[Row | None], style: str, colour: Any = None) -> Any:
    """Returns its colour."""
    values = [_value(estimate) for estimate in estimates]
    places = range(len(values))
    (line,) = axes.plot(places, values, style, label=name, color=colour, markersize=4)
    low, high = ([_value(estimate, end) for estimate in estimates] for end in ("low", "high"))
    axes.fill_between(places, low, high, color=line.get_color(), alpha=0.12, linewidth=0)
    return line.get_color()


def _heat_map(values: Numbers, rows: Sequence[str], columns: Sequence[str], title: str) -> Figure:
    figure = Figure(figsize=(3 + 0.9 * len(columns), 2 + 0.6 * len(rows)), layout="constrained")
    axes = figure.subplots()
    axes.imshow(values, vmin=0, vmax=1, cmap="RdYlGn", aspect="auto")
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), rows)
    axes.set_title(title, fontsize="medium")
    for (row, column), value in _present(values):
        axes.annotate(f"{value:.2f}", (column, row), ha="center", va="center")
    return figure


def _present(values: Numbers) -> Iterator[tuple[tuple[int, ...], float]]:
    return ((place, value) for place, value in np.ndenumerate(values) if not np.isnan(value))


def _value(estimate: Row | None, end: str = "value") -> float:
    return float("nan") if estimate is None else float(estimate[end])
