"""Right and wrong before and after refinement, as a program sees it: what is mended, what is broken."""

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from slhf_training.checks import ReadableCheck
from slhf_training.checks.batch import passed_all
from slhf_training.checks.tests import program_of
from slhf_training.evaluation.answers import GIVEN, Answer, Answers
from slhf_training.evaluation.cases import Case
from slhf_training.evaluation.chains import Chain
from slhf_training.evaluation.edits import edit, loops
from slhf_training.evaluation.statistics import Numbers, share
from slhf_training.evaluation.study import Row, Study, row_of

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


def draft_row(study: Study, marks: Marks, cases: Sequence[Case], writer: str) -> Row:
    """The drafts, over cases that have one."""
    draft = marks.of(cases, (writer,))
    return {
        "rows": len(cases),
        "prompts": len({case.prompt.id for case in cases}),
        "right": _mean_of(study, cases, draft),
    }


def round_row(study: Study, marks: Marks, cases: Sequence[Case], chain: Chain) -> Row:
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
    study: Study, cases: Sequence[Case], before: Sequence[Answer], after: Sequence[Answer], right: Marked
) -> Row:
    """How a refinement writes, whether it is right or not. `right`: the drafts that are, (N,)."""
    texts = [(one.text or "", two.text or "") for one, two in zip(before, after, strict=True)]
    same = np.array([unchanged(case, *pair) for case, pair in zip(cases, texts, strict=True)], dtype=bool)
    edits = [edit(*pair) for pair in texts]

    def mean(values: Iterable[float]) -> Row | None:
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


def two_answers(study: Study, marks: Marks, cases: Sequence[Case], leader: str, votes: int = 2) -> tuple[Row, Numbers]:
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


def _vote(study: Study, marks: Marks, cases: Sequence[Case], leader: str, votes: int) -> Row | None:
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


def against(study: Study, marks: Marks, cases: Sequence[Case], chain: Chain, leader: str, chosen: Numbers) -> Row:
    """A refinement less the chosen one of `leader`'s two answers, paired; and the tokens that the refinement cost, its
    draft's included where that was generated too."""
    written = [marks.answers(cases, one) for one in (chain[:1], chain) if one != (GIVEN,)]
    return {
        "leader": leader,
        "gain": _mean_of(study, cases, marks.of(cases, chain) - chosen),
        "words": _total([_mean(len((answer.text or "").split()) for answer in one) for one in written]),
        "tokens": _total([_mean(answer.tokens for answer in one) for one in written]),
    }


def counted(flags: Marked) -> Row | None:
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


def _mean_of(study: Study, cases: Sequence[Case], values: Numbers) -> Row | None:
    """Of (N,) values; all cases of a prompt are resampled together."""
    return row_of(study.bootstrap.mean_by(values, [case.prompt.id for case in cases]))


def _mean(values: Iterable[float | None]) -> float | None:
    """Of those that are known."""
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _total(values: Sequence[float | None]) -> float | None:
    """None where one is not known."""
    known = [value for value in values if value is not None]
    return float(sum(known)) if len(known) == len(values) else None
