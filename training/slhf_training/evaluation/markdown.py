"""Cells, rows and tables of Markdown, from the report's data."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
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


def duel_cells(duel: Row) -> list[str]:
    words = " / ".join(map(number, duel["words"]))
    figures = (estimate(duel[key]) for key in ("preference", "preferred", "length_controlled"))
    return [*figures, words, str(duel["without_verdict"])]


def change_cells(changes: Row) -> list[str]:
    return [estimate(changes.get(key)) for key in ("unchanged", "edit_ratio", "language_switched")]


def described(player: Row) -> list[str]:
    counts = (str(player[key]) for key in ("cut_at_the_limit", "kept_the_draft", "refused"))
    return [number(player["words"]), number(player["characters"]), *counts]


def estimate(found: Row | None) -> str:
    if found is None:
        return ABSENT
    return f"{found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})"


def percent(found: Row | None) -> str:
    if found is None:
        return ABSENT
    return f"{100 * found['value']:.1f} % ({100 * found['low']:.1f}–{100 * found['high']:.1f})"


def number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
