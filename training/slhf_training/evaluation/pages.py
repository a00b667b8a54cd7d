"""Pages of the report: markdown, pictures, and files for other people's scorers."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from slhf_training.evaluation.answers import Answers, Chain, Slot, file_name
from slhf_training.evaluation.prompts import Prompt
from slhf_training.evaluation.statistics import Numbers

ABSENT = "–"
DUEL = ("preference", "preferred", "length-controlled", "words", "without verdict")
CHANGES = ("unchanged", "edit ratio", "language switched")


def heading(title: str, text: str) -> Iterator[str]:
    yield from (f"## {title}", "", text, "")


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> Iterator[str]:
    yield _line(columns)
    yield _line(["---"] * len(columns))
    for row in rows:
        yield _line([ABSENT if cell is None else cell for cell in row])


def duel_cells(duel: Mapping[str, Any]) -> list[str]:
    words = " / ".join(map(number, duel["words"]))
    figures = (estimate(duel[key]) for key in ("preference", "preferred", "length_controlled"))
    return [*figures, words, str(duel["without_verdict"])]


def change_cells(changes: Mapping[str, Any]) -> list[str]:
    return [estimate(changes.get(key)) for key in ("unchanged", "edit_ratio", "language_switched")]


def described(player: Mapping[str, Any]) -> list[str]:
    counts = (str(player[key]) for key in ("cut_at_the_limit", "kept_the_draft", "refused"))
    return [number(player["words"]), number(player["characters"]), *counts]


def estimate(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ABSENT
    return f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def percent(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ABSENT
    return f"{100 * found['value']:.1f} % ({100 * found['low']:.1f}–{100 * found['high']:.1f})"


def points(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ABSENT
    return f"{100 * found['value']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def count(found: Mapping[str, Any] | None) -> str:
    """A count, the number it is of, and the percentage."""
    return ABSENT if found is None else f"{found['count']} of {found['n']}: {percent(found)}"


def number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def curve(axes: Axes, name: str, estimates: Sequence[Mapping[str, Any] | None], style: str, colour: Any = None) -> Any:
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


def value_of(estimate: Mapping[str, Any] | None, end: str = "value") -> float:
    """The estimate's value, or an end of its interval; NaN where there is no estimate."""
    return float("nan") if estimate is None else float(estimate[end])


def _present(values: Numbers) -> Iterator[tuple[tuple[int, ...], float]]:
    return ((place, value) for place, value in np.ndenumerate(values) if not np.isnan(value))


def single_turns(chain: Chain, prompts: Iterable[Prompt], answers: Answers) -> list[tuple[str, str]]:
    """Question and answer of chats of one turn, which is what these formats can hold; a missing answer is empty."""
    single = [prompt for prompt in prompts if len(prompt.chat) == 1]
    texts = answers.texts(Slot(chain, prompt.id) for prompt in single)
    return [(prompt.chat[0]["content"], text or "") for prompt, text in zip(single, texts, strict=True)]


def write_export(folder: Path, chain: Chain, name: str, content: str) -> None:
    """folder/PLAYER/name."""
    path = folder / file_name(chain) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", errors="replace")
