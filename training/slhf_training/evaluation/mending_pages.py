"""What the section `checked` says to readers: tables and a picture, from its figures and nothing else."""

from collections.abc import Iterator, Mapping
from typing import Any

from matplotlib.figure import Figure

from slhf_training.evaluation.answers import GIVEN
from slhf_training.evaluation.markdown import ABSENT, heading, number, percent, table

Row = Mapping[str, Any]


def summary_of(figures: Row) -> Iterator[str]:
    yield from heading(
        "Does refining help?",
        "A program, no judge, decides which answers are right: the number at the end, unit tests, accepted answers, "
        "instructions followed. Each row takes drafts, some right and some wrong, and has a model refine each once. "
        "*Mended*: of the wrong drafts, how many became right. *Broken*: of the right ones, how many became wrong. A "
        "refiner is worth using where right after is above right before, and broken is small. In brackets: 95 % "
        "intervals.",
    )
    columns = ["task", "drafts by", "refined by", "drafts", "right before", "right after", "change, points", "mended"]
    yield from table([*columns, "broken", "right ones left as they were"], map(_summary_cells, _players(figures)))
    yield ""


def pages(figures: Row) -> Iterator[str]:
    yield from heading(
        "Checked tasks",
        "Change and differences are paired: the same rows before and after, all rows of one prompt resampled together. "
        "Shares of counts have exact (Clopper-Pearson) intervals.",
    )
    for title, lines in (
        ("By the draft's model", _by_model(figures)),
        (f"Rounds (the first {figures['rounds_rows']} rows of each list get more than one)", _rounds(figures)),
        ("Two answers instead of a refinement", _two_answers(figures)),
        ("How the refinements are written", _style(figures)),
    ):
        yield from (f"### {title}", "", *lines, "")


def picture_of(figures: Row) -> Figure:
    """From right before to right after, an arrow for each row of the first table."""
    rows = [(task, row) for task, row in _players(figures) if row["right"] and row["rounds"]]
    figure = Figure(figsize=(8, 1.5 + 0.35 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, (_, row) in enumerate(rows):
        before, after = row["right"]["value"], row["rounds"][0]["right"]["value"]
        colour = "tab:green" if after >= before else "tab:red"
        axes.annotate("", (after, place), (before, place), arrowprops={"arrowstyle": "->", "color": colour, "lw": 2})
        axes.plot(before, place, "o", color="tab:grey")
    axes.set_yticks(range(len(rows)), [f"{task}: {_drafts(row)} > {row['follower']}" for task, row in rows])
    axes.set(xlim=(0, 1), ylim=(len(rows) - 0.5, -0.5), xlabel="share right: before (dot), after (arrow)")
    axes.grid(axis="x", alpha=0.3)
    return figure


def _players(figures: Row) -> Iterator[tuple[str, Row]]:
    for task, group in (figures["tasks"] | figures["pooled"]).items():
        for row in group["players"]:
            yield task, row


def _drafts(row: Row) -> str:
    return "other models" if row["drafts"] == GIVEN else str(row["drafts"])


def _named(task: str, row: Row) -> list[str]:
    return [task, _drafts(row), row["follower"]]


def _summary_cells(player: tuple[str, Row]) -> list[Any]:
    task, row = player
    if not row["rounds"]:
        return [*_named(task, row), row["rows"], *[ABSENT] * 6]
    return [*_named(task, row), row["rows"], percent(row["right"]), *_round_cells(row["rounds"][0])]


def _round_cells(one: Row) -> list[str]:
    shares = (_count(one[key]) for key in ("mended", "broken", "unchanged_right"))
    return [percent(one["right"]), _points(one["gain"]), *shares]


def _by_model(figures: Row) -> Iterator[str]:
    columns = ["task", "drafts by", "refined by", "drafts", "right before", "right after", "change, points", "mended"]
    rows = [
        [task, model, row["follower"], one["rows"], percent(one["right"]), *_round_cells(one["rounds"][0])]
        for task, row in _players(figures)
        for model, one in row["by_model"].items()
        if one["rounds"]
    ]
    yield from table([*columns, "broken", "right ones left as they were"], rows)


def _rounds(figures: Row) -> Iterator[str]:
    columns = ["task", "drafts by", "refined by", "round", "drafts", "right", "change, points", "change from round 1"]
    rows = [
        [
            *_named(task, row),
            *(one["round"], one["rows"], percent(one["right"]), _points(one["gain"]), _points(one["against_round_1"])),
            *(_count(one[key]) for key in ("mended", "broken")),
        ]
        for task, row in _players(figures)
        for one in row["rounds"]
    ]
    yield from table([*columns, "mended", "broken"], rows)


def _two_answers(figures: Row) -> Iterator[str]:
    yield (
        "The same tokens spent otherwise: the model answers the question itself, twice and independently. *Chosen*: "
        "the panel chooses between the two where it speaks, else the first stands. *Either*: one of the two is right "
        "(pass@2). Refining wins where its difference to *chosen* is above zero."
    )
    yield ""
    columns = ["task", "answers of", "first right", "chosen right", "either right", "panel spoke", "words", "tokens"]
    groups = figures["tasks"] | figures["pooled"]
    votes = [(task, row, row["vote"]) for task, group in groups.items() for row in group["two_answers"] if row["vote"]]
    yield from table(
        columns,
        (
            [
                *(task, one["leader"], *(percent(one[key]) for key in ("right", "chosen", "pass_at_2"))),
                *(_count(one["panel_spoke"]), number(one["words"]), number(one["tokens"])),
            ]
            for task, group in groups.items()
            for one in group["two_answers"]
        ),
    )
    yield ""
    if votes:
        yield "More of them, where a check reads a result: the one that most of them have (self-consistency)."
        yield ""
        yield from table(
            ["task", "answers of", "answers", "majority right", "tokens"],
            [
                [task, row["leader"], vote["answers"], percent(vote["right"]), number(vote["tokens"])]
                for task, row, vote in votes
            ],
        )
        yield ""
    yield from table(
        ["task", "drafts by", "refined by", "against two of", "refined less chosen, points", "words", "tokens"],
        (
            [*_named(task, row), one["leader"], _points(one["gain"]), number(one["words"]), number(one["tokens"])]
            for task, row in _players(figures)
            if (one := row.get("against_two_answers")) is not None
        ),
    )


def _style(figures: Row) -> Iterator[str]:
    yield (
        "After the first round. *Edit ratio*: words inserted or deleted, of both texts' words. *Loops*: the same words "
        "three times in a row or more, over 24 words or more. *Cut*: ended by the limit of tokens. *Kept*: nothing was "
        "written, or there was no room, so that the draft stands."
    )
    yield ""
    columns = ["task", "drafts by", "refined by", "unchanged", "edit ratio", "words before / after"]
    yield from table(
        [*columns, "tokens before / after", "language switched", "loops before / after", "cut", "kept"],
        ([*_named(task, row), *_style_cells(row["rounds"][0])] for task, row in _players(figures) if row["rounds"]),
    )


def _style_cells(one: Row) -> list[str]:
    loops = " / ".join(_bare(one[key]) for key in ("draft_loops", "loops"))
    words, tokens = (" / ".join(map(number, one[key])) for key in ("words", "tokens"))
    shares = _count(one["unchanged"]), _bare(one["edit_ratio"]), words, tokens, _bare(one["language_switched"]), loops
    return [*shares, str(one["cut_at_the_limit"]), str(one["kept_the_draft"])]


def _bare(found: Row | None) -> str:
    return ABSENT if found is None else f"{100 * found['value']:.1f} %"


def _points(found: Row | None) -> str:
    if found is None:
        return ABSENT
    return f"{100 * found['value']:+.1f} ({100 * found['low']:+.1f} to {100 * found['high']:+.1f})"


def _count(found: Row | None) -> str:
    """Of how many, too."""
    return ABSENT if found is None else f"{found['count']} of {found['n']}: {percent(found)}"
