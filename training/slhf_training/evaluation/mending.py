"""Right and wrong before and after refinement, as a program sees it: what is mended, what is broken; and the pages that
say so to readers, from the figures and nothing else.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from slhf.programs import program_of
from slhf_training.checks import ReadableCheck
from slhf_training.checks.registry import passed_all
from slhf_training.evaluation.answers import GIVEN, Answer, Answers, Chain
from slhf_training.evaluation.pages import ABSENT, count, heading, number, percent, points, table
from slhf_training.evaluation.prompts import Case
from slhf_training.evaluation.statistics import Numbers, edit, loops, share
from slhf_training.evaluation.study import Figures, SectionData, row_of

Marked = npt.NDArray[np.bool_]


class Marks:
    """Right or wrong, of answers to cases. A text is checked once."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._known: dict[tuple[int, str], bool] = {}

    def answers(self, cases: Sequence[Case], chain: Chain, sample: int = 0) -> list[Answer]:
        """All must be written."""
        found = [self._answers.get(case.slot(chain, sample)) for case in cases]
        return [answer for answer in found if answer is not None]

    def of(self, cases: Sequence[Case], chain: Chain, sample: int = 0) -> Numbers:
        """(N,): 1 right, 0 wrong, NaN where there is no text. Raises SandboxError where unit tests cannot run."""
        texts = [answer.text for answer in self.answers(cases, chain, sample)]
        asked = [(case, text) for case, text in zip(cases, texts, strict=True) if text is not None]
        unknown = {(id(case.check), text): case.check for case, text in asked if case.check is not None}
        unknown = {key: check for key, check in unknown.items() if key not in self._known}
        self._known.update(zip(unknown, passed_all(list(unknown.values()), [text for _, text in unknown]), strict=True))
        pairs = zip(cases, texts, strict=True)
        marks = [np.nan if text is None else self._known[id(case.check), text] for case, text in pairs]
        return np.array(marks, dtype=np.float64)


def draft_row(study: SectionData, marks: Marks, cases: Sequence[Case], writer: str) -> Figures:
    """The drafts, over cases that have one."""
    draft = marks.of(cases, (writer,))
    return {
        "rows": len(cases),
        "prompts": len({case.prompt.id for case in cases}),
        "right": _mean_of(study, cases, draft),
    }


def round_row(study: SectionData, marks: Marks, cases: Sequence[Case], chain: Chain) -> Figures:
    """One round, `chain`, against the draft that it started from, over cases that have one."""
    draft, first, after = (marks.of(cases, one) for one in (chain[:1], chain[:2], chain))
    before, answers = marks.answers(cases, chain[:1]), marks.answers(cases, chain)
    return {
        "round": len(chain) - 1,
        "rows": len(cases),
        "right": _mean_of(study, cases, after),
        "gain": _mean_of(study, cases, after - draft),
        "against_round_1": _mean_of(study, cases, after - first) if len(chain) > 2 else None,
        "mended": counted(after[draft == 0] == 1),
        "broken": counted(after[draft == 1] == 0),
        **_style(study, cases, before, answers, draft == 1),
    }


def _style(
    study: SectionData, cases: Sequence[Case], before: Sequence[Answer], after: Sequence[Answer], right: Marked
) -> Figures:
    """How a refinement writes, whether it is right or not. `right`: the drafts that are, (N,)."""
    texts = [(one.text or "", two.text or "") for one, two in zip(before, after, strict=True)]
    same = np.array([unchanged(case, *pair) for case, pair in zip(cases, texts, strict=True)], dtype=bool)
    edits = [edit(*pair) for pair in texts]

    def mean(values: Iterable[float]) -> Figures | None:
        return _mean_of(study, cases, np.array(list(values), dtype=np.float64))

    return {
        "unchanged": counted(same),
        "unchanged_right": counted(same[right]),
        "edit_ratio": mean(one.ratio for one in edits),
        "language_switched": mean(one.switched for one in edits),
        "loops": mean(loops(text) for _, text in texts),
        "draft_loops": mean(loops(text) for text, _ in texts),
        "words": [_mean(len(pair[side].split()) for pair in texts) for side in (0, 1)],
        "tokens": [_mean(answer.tokens for answer in side) for side in (before, after)],
        "cut_at_the_limit": sum(answer.finish == "length" for answer in after),
        "kept_the_draft": sum(answer.finish == "kept" for answer in after),
    }


def two_answers(
    study: SectionData, marks: Marks, cases: Sequence[Case], leader: str, votes: int = 2
) -> tuple[Figures, Numbers]:
    """What as many tokens buy without refinement: two independent answers of one Leader, of which one is chosen, and a
    vote of more.

    The panel chooses where it speaks; elsewhere, and without a panel, the first stands. Also returned: 1 where the
    chosen one is right, (N,).
    """
    first, second = (marks.of(cases, (leader,), sample) for sample in (0, 1))
    p = np.full(len(cases), np.nan)
    if study.comparisons is not None:
        p = study.judged([(case.slot((leader,), 1), case.slot((leader,), 0)) for case in cases])
    chosen = np.where(p > 0.5, second, first)
    written = [marks.answers(cases, (leader,), sample) for sample in (0, 1)]
    row = {
        "leader": leader,
        "right": _mean_of(study, cases, first),
        "chosen": _mean_of(study, cases, chosen),
        "pass_at_2": _mean_of(study, cases, np.fmax(first, second)),
        "panel_spoke": counted(~np.isnan(p)) if study.comparisons is not None else None,
        "words": _total([_mean(len((answer.text or "").split()) for answer in one) for one in written]),
        "tokens": _total([_mean(answer.tokens for answer in one) for one in written]),
        "vote": _vote(study, marks, cases, leader, votes) if votes > 2 else None,
    }
    return row, chosen


def _vote(study: SectionData, marks: Marks, cases: Sequence[Case], leader: str, votes: int) -> Figures | None:
    """The result that most of these answers have, the earlier one of two; None where no check reads results."""
    read = [case for case in cases if isinstance(case.check, ReadableCheck)]
    if not read:
        return None
    written = [marks.answers(read, (leader,), sample) for sample in range(votes)]
    right = np.array([marks.of(read, (leader,), sample) for sample in range(votes)])  # (votes, N)
    winners = [_most_common(case, answers) for case, answers in zip(read, zip(*written, strict=True), strict=True)]
    return {
        "answers": votes,
        "right": _mean_of(study, read, right[winners, np.arange(len(read))]),
        "tokens": _total([_mean(answer.tokens for answer in one) for one in written]),
    }


def _most_common(case: Case, answers: Sequence[Answer]) -> int:
    """Which of the answers is the first that has the most common result; the first of all where none has one."""
    assert isinstance(case.check, ReadableCheck)
    results = [case.check.read(answer.text or "") for answer in answers]
    common = Counter(result for result in results if result is not None).most_common(1)
    return results.index(common[0][0]) if common else 0


def against(
    study: SectionData, marks: Marks, cases: Sequence[Case], chain: Chain, leader: str, chosen: Numbers
) -> Figures:
    """A refinement less the chosen one of `leader`'s two answers, paired; and the tokens that the refinement cost, its
    draft's included where that was generated too."""
    written = [marks.answers(cases, one) for one in (chain[:1], chain) if one != (GIVEN,)]
    return {
        "leader": leader,
        "gain": _mean_of(study, cases, marks.of(cases, chain) - chosen),
        "words": _total([_mean(len((answer.text or "").split()) for answer in one) for one in written]),
        "tokens": _total([_mean(answer.tokens for answer in one) for one in written]),
    }


def counted(flags: Marked) -> Figures | None:
    """A share with its exact interval, and the count."""
    found = row_of(share(int(flags.sum()), len(flags)))
    return found and {"count": int(flags.sum()), **found}


def unchanged(case: Case, before: str, after: str) -> bool:
    """White space at the ends aside. Of a program what counts is the code: a fence and words around it may change."""
    if before.strip() == after.strip():
        return True
    if case.entry_point is None:
        return False
    one, other = (program_of(text, case.entry_point) for text in (before, after))
    return one is not None and other is not None and one.strip() == other.strip()


def _mean_of(study: SectionData, cases: Sequence[Case], values: Numbers) -> Figures | None:
    """The mean of (N,) values with its interval; all cases of a prompt are resampled together."""
    return row_of(study.bootstrap.mean_by(values, [case.prompt.id for case in cases]))


def _mean(values: Iterable[float | None]) -> float | None:
    """The mean of the known values; None where none is known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _total(values: Sequence[float | None]) -> float | None:
    """The sum; None where a value is unknown."""
    known = [value for value in values if value is not None]
    return float(sum(known)) if len(known) == len(values) else None


def summary_of(figures: Mapping[str, Any]) -> Iterator[str]:
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


def pages(figures: Mapping[str, Any]) -> Iterator[str]:
    yield from heading(
        "Checked tasks",
        "Change and differences are paired: the same rows before and after, all rows of one prompt resampled together. "
        "Shares of counts have exact (Clopper-Pearson) intervals.",
    )
    for title, lines in (
        ("By the draft's model", _by_model(figures)),
        (f"Rounds (the first {figures['rounds_rows']} rows of each list get more than one)", _rounds(figures)),
        ("Two answers instead of a refinement", _two_answers(figures)),
        ("How the refinements are written", _look(figures)),
    ):
        yield from (f"### {title}", "", *lines, "")


def picture_of(figures: Mapping[str, Any]) -> Figure:
    """Draws an arrow for each row of the first table, from the share right before to the share right after."""
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


def _players(figures: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for task, group in (figures["tasks"] | figures["pooled"]).items():
        for row in group["players"]:
            yield task, row


def _drafts(row: Mapping[str, Any]) -> str:
    return "other models" if row["drafts"] == GIVEN else str(row["drafts"])


def _named(task: str, row: Mapping[str, Any]) -> list[str]:
    return [task, _drafts(row), row["follower"]]


def _summary_cells(player: tuple[str, Mapping[str, Any]]) -> list[Any]:
    task, row = player
    if not row["rounds"]:
        return [*_named(task, row), row["rows"], *[ABSENT] * 6]
    return [*_named(task, row), row["rows"], percent(row["right"]), *_round_cells(row["rounds"][0])]


def _round_cells(one: Mapping[str, Any]) -> list[str]:
    shares = (count(one[key]) for key in ("mended", "broken", "unchanged_right"))
    return [percent(one["right"]), points(one["gain"]), *shares]


def _by_model(figures: Mapping[str, Any]) -> Iterator[str]:
    columns = ["task", "drafts by", "refined by", "drafts", "right before", "right after", "change, points", "mended"]
    rows = [
        [task, model, row["follower"], one["rows"], percent(one["right"]), *_round_cells(one["rounds"][0])]
        for task, row in _players(figures)
        for model, one in row["by_model"].items()
        if one["rounds"]
    ]
    yield from table([*columns, "broken", "right ones left as they were"], rows)


def _rounds(figures: Mapping[str, Any]) -> Iterator[str]:
    columns = ["task", "drafts by", "refined by", "round", "drafts", "right", "change, points", "change from round 1"]
    rows = [
        [
            *_named(task, row),
            *(one["round"], one["rows"], percent(one["right"]), points(one["gain"]), points(one["against_round_1"])),
            *(count(one[key]) for key in ("mended", "broken")),
        ]
        for task, row in _players(figures)
        for one in row["rounds"]
    ]
    yield from table([*columns, "mended", "broken"], rows)


def _two_answers(figures: Mapping[str, Any]) -> Iterator[str]:
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
                *(count(one["panel_spoke"]), number(one["words"]), number(one["tokens"])),
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
            [*_named(task, row), one["leader"], points(one["gain"]), number(one["words"]), number(one["tokens"])]
            for task, row in _players(figures)
            if (one := row.get("against_two_answers")) is not None
        ),
    )


def _look(figures: Mapping[str, Any]) -> Iterator[str]:
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


def _style_cells(one: Mapping[str, Any]) -> list[str]:
    loops = " / ".join(_bare(one[key]) for key in ("draft_loops", "loops"))
    words, tokens = (" / ".join(map(number, one[key])) for key in ("words", "tokens"))
    shares = count(one["unchanged"]), _bare(one["edit_ratio"]), words, tokens, _bare(one["language_switched"]), loops
    return [*shares, str(one["cut_at_the_limit"]), str(one["kept_the_draft"])]


def _bare(found: Mapping[str, Any] | None) -> str:
    return ABSENT if found is None else f"{100 * found['value']:.1f} %"
