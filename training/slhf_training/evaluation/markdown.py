"""The report for readers: Markdown tables from the report's data and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

Row = Mapping[str, Any]
ABSENT = "–"


def markdown(report: Row) -> str:
    writers = {
        "round_robin": _round_robin,
        "refinement": _refinement,
        "rounds": _rounds,
        "cycles": _cycles,
        "ifeval": _ifeval,
    }
    lines = ["# Evaluation", "", *_facts(report)]
    for name, write in writers.items():
        if name in report["sections"]:
            lines += ["", *write(report["sections"][name])]
    return "\n".join(lines) + "\n"


def _facts(report: Row) -> Iterator[str]:
    judged = report["judgements"]
    yield (
        f"{report['prompts']} prompts. A figure is followed by its 95 % interval from {report['resamples']} resamples "
        "of the prompts. *Preference* is the mean of p, *preferred* counts p > 1/2 as one and ties as half, "
        "*length-controlled* is the win rate at equal length (logistic regression, as AlpacaEval 2). "
        f"The judge abstained from {judged['abstained']} of the pairs."
    )
    yield ""
    yield from _table(
        ["model", "from", "trained", "revision"],
        (
            [name, m.get("bundle") or m.get("drafts"), m.get("trained"), m.get("revision")]
            for name, m in report["models"].items()
        ),
    )


def _round_robin(section: Row) -> Iterator[str]:
    names = list(section["players"])
    preference = {(duel["row"], duel["column"]): duel["preference"] for duel in section["duels"]}
    yield from _heading("Round robin", "How often the row's answer is preferred to the column's.")
    yield from _table(
        ["", *names], ([f"**{row}**", *(_cell(preference, row, column) for column in names)] for row in names)
    )
    yield ""
    yield from _table(
        ["pair", *_DUEL],
        ([f"{duel['row']} against {duel['column']}", *_duel(duel)] for duel in section["duels"]),
    )
    yield ""
    yield from _table(
        ["player", "words", "characters", "cut at the limit", "kept the draft", "refused"],
        ([name, *_described(player)] for name, player in section["players"].items()),
    )


def _refinement(section: Row) -> Iterator[str]:
    duels = {(duel["leader"], duel["follower"]): duel for duel in section["duels"]}
    leaders, followers = (list(dict.fromkeys(key[side] for key in duels)) for side in (0, 1))
    yield from _heading(
        "Refinement", "How often the column's refinement of the row's draft is preferred to that very draft."
    )
    yield from _table(
        ["draft of", *followers],
        ([f"**{one}**", *(_estimate(duels[one, two]["preference"]) for two in followers)] for one in leaders),
    )
    yield ""
    yield from _table(
        ["draft > refined by", *_DUEL, *_CHANGES, "kept the draft"],
        (
            [f"{one} > {two}", *_duel(duel), *_changes(duel["changes"]), duel["refined"]["kept_the_draft"]]
            for (one, two), duel in duels.items()
        ),
    )


def _rounds(section: Row) -> Iterator[str]:
    for curve in section["curves"]:
        yield from _heading(
            f"Rounds: {curve['leader']} refined by {curve['follower']}",
            "Each round against round 0. *Best of* is the best of the rounds so far for each prompt, as this judge "
            "sees it: an upper bound, because the judge that chooses is the one that measures.",
        )
        sampled = curve.get("best_of_samples", [])
        yield from _table(
            ["round", "preference", "length-controlled", "best of", "best of as many samples", "words", *_CHANGES],
            (
                [
                    row["round"],
                    *(_estimate(row.get("against_draft", {}).get(key)) for key in ("preference", "length_controlled")),
                    _estimate(row["best_of"]),
                    _estimate(sampled[row["round"]] if row["round"] < len(sampled) else None),
                    _number(row["words"]),
                    *_changes(row.get("changes", {})),
                ]
                for row in curve["rounds"]
            ),
        )
        yield ""


def _cycles(section: Row) -> Iterator[str]:
    yield from _heading(
        "Cycles",
        "Of several answers of one Leader to one prompt: the share of prompts where some beat one another in a circle, "
        "where none beats all others, and where each is beaten by some other.",
    )
    columns = ("with_cycle", "without_condorcet_winner", "without_unbeaten", "different_answers")
    yield from _table(
        ["model", "samples", "cycle", "no Condorcet winner", "none unbeaten", "different answers", "without verdict"],
        (
            [name, row["samples"], *(_estimate(row[key]) for key in columns), row["without_verdict"]]
            for name, row in section.items()
        ),
    )


def _ifeval(section: Row) -> Iterator[str]:
    yield from _heading(
        "IFEval",
        f"{section['prompts']} prompts, checked by {section['checker']}; gains are refined minus draft by prompt. "
        f"Kinds of instruction: {', '.join(section['kinds'])}.",
    )
    columns = ("prompt_strict", "prompt_loose", "instruction_strict", "instruction_loose")
    gains = ("gain_prompt_strict", "gain_prompt_loose")
    yield from _table(
        ["player", *(name.replace("_", ", ") for name in columns), "gain, strict", "gain, loose"],
        ([name, *(_estimate(row.get(key)) for key in (*columns, *gains))] for name, row in section["players"].items()),
    )


_DUEL = ("preference", "preferred", "length-controlled", "words", "without verdict")
_CHANGES = ("unchanged", "edit ratio", "language switched")


def _duel(duel: Row) -> list[str]:
    words = " / ".join(map(_number, duel["words"]))
    figures = (_estimate(duel[key]) for key in ("preference", "preferred", "length_controlled"))
    return [*figures, words, str(duel["without_verdict"])]


def _changes(changes: Row) -> list[str]:
    return [_estimate(changes.get(key)) for key in ("unchanged", "edit_ratio", "language_switched")]


def _described(player: Row) -> list[str]:
    counts = (str(player[key]) for key in ("cut_at_the_limit", "kept_the_draft", "refused"))
    return [_number(player["words"]), _number(player["characters"]), *counts]


def _cell(preference: Mapping[tuple[str, str], Row | None], row: str, column: str) -> str:
    """Duels are there in one direction; the other is one minus it."""
    if row == column:
        return ""
    if (row, column) in preference:
        return _estimate(preference[row, column])
    there = preference[column, row]
    return _estimate(there and {"value": 1 - there["value"], "low": 1 - there["high"], "high": 1 - there["low"]})


def _estimate(estimate: Row | None) -> str:
    if estimate is None:
        return ABSENT
    return f"{estimate['value']:.3f} ({estimate['low']:.3f}–{estimate['high']:.3f})"


def _number(value: float | None) -> str:
    return ABSENT if value is None else f"{value:.1f}"


def _heading(title: str, text: str) -> Iterator[str]:
    yield from (f"## {title}", "", text, "")


def _table(columns: Sequence[str], rows: Any) -> Iterator[str]:
    yield _line(columns)
    yield _line(["---"] * len(columns))
    for row in rows:
        yield _line([ABSENT if cell is None else cell for cell in row])


def _line(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"
