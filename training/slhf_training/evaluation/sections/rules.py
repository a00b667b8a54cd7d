"""What stop rules and `select` would have returned and spent: the same written rounds, seen by each rule.

Thresholds are chosen on some of the prompts, and everything that is reported is of the others.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

import numpy as np
from pydantic import Field, ValidationError

from slhf.bundle import Bundle, read_bundle, write_bundle
from slhf_training.config import Section, portable
from slhf_training.data import Example
from slhf_training.data.load import split
from slhf_training.errors import SettingsError
from slhf_training.evaluation.answers import Chain, Slot, refined
from slhf_training.evaluation.mending import Marks, counted
from slhf_training.evaluation.pages import count, estimate, heading, number, percent, points, table
from slhf_training.evaluation.prompts import Case, Prompt, TaskSettings, read_cases
from slhf_training.evaluation.sections import Measurement
from slhf_training.evaluation.statistics import Numbers
from slhf_training.evaluation.study import Comparisons, Figures, SectionData, row_of
from slhf_training.evaluation.trajectories import NamedRule, Outcome, Trajectory, chosen, lost, rules
from slhf_training.preference import PreferenceSettings, SourceSettings, origins, sources
from slhf_training.types import as_text

KEYS = {"small_edit": "edit_ratio", "judge_sure": "p", "select": "margin"}
"""The rules with a threshold, and its name in a bundle's `stop_rules`."""
CHARACTERS = 4
"""Of a token, about: a judge of any kind reads, and not all say how many tokens."""
COLUMNS = (
    *("rule", "gain, points", "mended", "broken", "harm", "judged", "judged harm", "kept the draft", "useful lost"),
    *("tokens", "verdicts", "read"),
)
Share = Annotated[float, Field(ge=0, le=1)]
Sure = Annotated[float, Field(gt=0.5, le=1)]


class RulesSettings(Section):
    tasks: dict[str, TaskSettings] = Field(min_length=1)
    """Drafts that are refined, as in `checked`; rows without a `check` are seen by the held-out judge alone."""
    followers: tuple[str, ...] = Field(min_length=1)
    judge: PreferenceSettings
    """The deciding judge, which the rules ask. The held-out one is the configuration's `preference`; they may share no
    file, model or endpoint."""
    rounds: int = Field(default=3, gt=0)
    edit_ratios: tuple[Share, ...] = (0.02, 0.05, 0.1, 0.2)
    """Thresholds of `small_edit`."""
    sure: tuple[Sure, ...] = (0.6, 0.7, 0.8, 0.9)
    """Thresholds of `judge_sure`."""
    margins: tuple[Sure, ...] = (0.55, 0.6, 0.7, 0.8)
    """Margins of `select: judge`."""
    alpha: float = Field(default=0.05, gt=0, lt=1)
    """Share of the useful rounds that a threshold may lose. A round is useful where its text is better than every text
    before it: right where all were wrong, or, where no program checks, preferred to each by the held-out judge with p
    of .6 or more."""
    validation: float = Field(default=0.5, gt=0, lt=1)
    """Share of the prompts by which thresholds are chosen; figures are of the others."""
    write: bool = False
    """Write the thresholds, and what they gave, into the manifests of the Followers, which must be directories. What
    was there before goes."""


class Rules(Measurement[RulesSettings]):
    name: ClassVar[str] = "rules"
    place: ClassVar[int] = 5
    settings: ClassVar[type[Section]] = RulesSettings
    needs: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, how: RulesSettings, main: Mapping[str, Prompt], limit: int | None) -> None:
        self._cases = {
            name: read_cases(f"rules.tasks.{name}", task, limit, checked=False) for name, task in how.tasks.items()
        }
        cases = [case for task in self._cases.values() for case in task]
        super().__init__(how, {prompt.id: prompt for case in cases for prompt in (case.prompt, case.drafted)}, limit)

    @classmethod
    def chains(cls, how: RulesSettings) -> list[Chain]:
        leaders = {leader for task in how.tasks.values() for leader in task.leaders}
        return [(one, two) for one in (*sorted(leaders), *how.followers) for two in how.followers]

    @classmethod
    def check(cls, how: RulesSettings, bundles: Mapping[str, str], preference: SourceSettings | None) -> None:
        if any(part["kind"] == "checked" for part in sources(how.judge.model_dump())):
            raise ValueError("rules.judge: what decides must not be the program that measures")
        if preference is not None and origins(how.judge) & origins(preference):
            raise ValueError("rules.judge: what decides must not be what measures, and `preference` has the same files")
        for name in how.followers:
            if how.write and not Path(bundles.get(name, "")).is_absolute():
                raise ValueError(f"rules.write: {name!r} is no directory whose manifest could be written")

    def given(self) -> Mapping[str, str]:
        return {prompt.id: prompt.draft for prompt in self.prompts.values() if prompt.draft is not None}

    def wanted(self) -> list[Slot]:
        return [
            case.slot(refined(writer, follower, length))
            for length in range(self.how.rounds + 1)
            for name, task in self.how.tasks.items()
            for case in self._cases[name]
            for writer in task.writers
            for follower in self.how.followers
        ]

    def figures(self, study: SectionData) -> Figures:
        marks = Marks(study.answers)
        return {follower: self._of_follower(study, marks, follower) for follower in self.how.followers}

    def publish(self, figures: Mapping[str, Any], directories: Mapping[str, Path]) -> None:
        for follower in self.how.followers if self.how.write else ():
            bundle = read_bundle(directories[follower])
            found = figures[follower]
            known = {rule: {KEYS[rule]: value} for rule, value in found["thresholds"].items() if value is not None}
            changed = {"stop_rules": known, "evaluation": bundle.evaluation | {"rules": self._card(found)}}
            try:
                written = Bundle.model_validate(bundle.model_dump() | changed)
            except ValidationError as exc:  # its own wishes ask for a threshold that was not found
                said = "; ".join(error["msg"] for error in exc.errors())
                raise SettingsError(f"rules.write: {directories[follower]}: {said}") from exc
            write_bundle(directories[follower], written)

    def _card(self, found: Mapping[str, Any]) -> Figures:
        """For the bundle's card: of all rows, the rules with nothing to choose and the chosen thresholds."""
        kept = [row for row in found["groups"]["all"] if row["value"] is None or row["rule"] == "last" or row["chosen"]]
        return {"judge": portable(self.how.judge), "alpha": self.how.alpha, "useful": found["useful"], "rules": kept}

    def _of_follower(self, study: SectionData, marks: Marks, follower: str) -> Figures:
        rows = [
            row
            for name, task in self.how.tasks.items()
            for writer in task.writers
            for row in _rows(study, marks, name, self._cases[name], refined(writer, follower, self.how.rounds))
        ]
        deciding = study.judge_of(self.how.judge)
        _judge(deciding, study, rows, lambda row: row.written.p, self._every_pair)
        if study.comparisons is not None:
            _judge(study.comparisons, study, rows, lambda row: row.written.held_out, self._measured_pairs)
        asked = [Example(row.case.prompt.chat, id=str(number)) for number, row in enumerate(rows)]
        chosen_by = {int(example.id) for example in split(asked, self.how.validation)[1]}
        validation = [row.written for number, row in enumerate(rows) if number in chosen_by]
        test = [row for number, row in enumerate(rows) if number not in chosen_by]
        compared = rules(self.how.rounds, self.how.edit_ratios, self.how.sure, self.how.margins)
        thresholds = {
            name: chosen([one for one in compared if one.name == name], validation, self.how.alpha) for name in KEYS
        }
        groups = {"all": test} | {name: [row for row in test if row.task == name] for name in self.how.tasks}
        return {
            "rows": {"validation": len(validation), "test": len(test)},
            "useful": sum(len(one.useful()) for one in validation),
            "thresholds": thresholds,
            "abstained": deciding.abstained,
            "groups": {
                name: [_figures(study, some, one, thresholds.get(one.name)) for one in compared]
                for name, some in groups.items()
                if some and (name == "all" or len(self.how.tasks) > 1)
            },
        }

    def _every_pair(self, row: "_Row") -> list[tuple[int, int]]:
        return [(new, old) for new in range(1, self.how.rounds + 1) for old in range(new)]

    def _measured_pairs(self, row: "_Row") -> list[tuple[int, int]]:
        """Against the draft; where no program checks, against all texts before, which tells what is useful."""
        return [(new, old) for new, old in self._every_pair(row) if old == 0 or row.case.check is None]

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        for follower, found in figures.items():
            by = "{validation} rows with {useful} useful rounds; all figures are of the other {test}".format(
                **found["rows"], useful=found["useful"]
            )
            yield from heading(
                f"Stop rules: refined by {follower}",
                "The same written rounds, seen by each rule. *Gain*, *mended*, *broken*, *harm*: by the program, where "
                "one checks. *Judged*: how often the judge that measures prefers the returned text to the draft (half "
                "where it is the draft), and how many drafts it prefers. *Useful lost*: of the rounds better than each "
                "text before them, those that the rule does not return, nor a later one. *Tokens* are the rounds'; "
                "*verdicts* and *read* are the deciding judge's: what it reads in both orders, a token for 4 "
                f"characters (one that answers itself reads neither text). Thresholds (*) were chosen on {by}.",
            )
            if None in found["thresholds"].values():
                none = ", ".join(name for name, value in found["thresholds"].items() if value is None)
                yield from (f"No threshold is known to lose few enough useful rounds for: {none}.", "")
            for name, rows in found["groups"].items():
                yield from (f"### {name}", "")
                yield from table(COLUMNS, map(_cells, rows))
                yield ""


@dataclass(frozen=True, slots=True)
class _Row:
    """A case with its rounds."""

    task: str
    case: Case
    slots: tuple[Slot, ...]
    tokens: Numbers
    """(k,): of each round; a round that kept its draft has none."""
    written: Trajectory


def _rows(study: SectionData, marks: Marks, task: str, cases: Sequence[Case], chain: Chain) -> Iterator[_Row]:
    """Of all cases that have a draft."""
    chains = [chain[:length] for length in range(1, len(chain) + 1)]
    checked = [case for case in cases if case.check is not None]
    found = np.array([marks.of(checked, one) for one in chains])  # (k + 1, N)
    right = {id(case): found[:, place] for place, case in enumerate(checked)}
    unknown = (len(chains), len(chains))
    for case in cases:
        slots = tuple(case.slot(one) for one in chains)
        answers = [answer for slot in slots if (answer := study.answers.get(slot)) is not None]
        texts = tuple(answer.text for answer in answers if answer.text is not None)
        if len(texts) == len(chains):
            p, held_out = np.full(unknown, np.nan), np.full(unknown, np.nan)
            by_program = right.get(id(case), np.full(len(chains), np.nan))
            tokens = np.array([np.nan if one.tokens is None else one.tokens for one in answers[1:]], dtype=np.float64)
            tokens[[one.finish == "kept" for one in answers[1:]]] = 0
            yield _Row(task, case, slots, tokens, Trajectory(texts, p, by_program, held_out))


def _judge(
    judge: Comparisons,
    study: SectionData,
    rows: Sequence[_Row],
    of: Callable[[_Row], Numbers],
    pairs: Callable[[_Row], list[tuple[int, int]]],
) -> None:
    """Fill in the matrices with p of these pairs."""
    places = [(row, new, old) for row in rows for new, old in pairs(row)]
    p = judge.judge([(row.slots[new], row.slots[old]) for row, new, old in places], study.answers, study.prompts)
    for (row, new, old), value in zip(places, p, strict=True):
        of(row)[new, old] = value


def _figures(study: SectionData, rows: Sequence[_Row], rule: NamedRule, threshold: float | None) -> Figures:
    outcomes = [rule.rule(row.written) for row in rows]
    prompts = [row.case.prompt.id for row in rows]
    before = np.array([row.written.right[0] for row in rows])
    after = np.array([row.written.right[one.returned] for row, one in zip(rows, outcomes, strict=True)])
    measured = study.comparisons is not None
    p = np.array([_measured(row, one) if measured else np.nan for row, one in zip(rows, outcomes, strict=True)])
    tokens = np.array([row.tokens[: one.rounds].sum() for row, one in zip(rows, outcomes, strict=True)])

    def mean(values: Any) -> Figures | None:
        return row_of(study.bootstrap.mean_by(np.asarray(values, dtype=np.float64), prompts))

    gone = np.array(lost(rule.rule, [row.written for row in rows]), dtype=bool)
    return {
        "rule": rule.name,
        "value": rule.value,
        "chosen": rule.name in KEYS and rule.value == threshold,
        "gain": mean(after - before),
        "mended": counted(after[before == 0] == 1),
        "broken": counted(after[before == 1] == 0),
        "harm": mean(np.where(np.isnan(before), np.nan, after < before)),
        "judged": mean(p),
        "judged_harm": mean(np.where(np.isnan(p), np.nan, p < 0.5)),
        "kept_the_draft": mean([one.returned == 0 for one in outcomes]),
        "useful_lost": counted(gone),
        "tokens": mean(tokens),
        "verdicts": mean([len(one.asked) for one in outcomes]),
        "read": mean([_read(row, one) for row, one in zip(rows, outcomes, strict=True)]),
    }


def _measured(row: _Row, outcome: Outcome) -> float:
    return 0.5 if outcome.returned == 0 else float(row.written.held_out[outcome.returned, 0])


def _read(row: _Row, outcome: Outcome) -> float:
    """Tokens that the deciding judge reads, about."""
    asked = len(as_text(row.case.prompt.chat))
    return sum(2 * (asked + sum(len(row.written.texts[n]) for n in pair)) for pair in outcome.asked) / CHARACTERS


def _cells(row: Mapping[str, Any]) -> list[Any]:
    value = "" if row["value"] is None else f" {row['value']:g}"
    return [
        f"{row['rule']}{value}{' *' if row['chosen'] else ''}",
        points(row["gain"]),
        *(count(row[key]) for key in ("mended", "broken")),
        percent(row["harm"]),
        estimate(row["judged"]),
        percent(row["judged_harm"]),
        percent(row["kept_the_draft"]),
        count(row["useful_lost"]),
        *(number(row[key] and row[key]["value"]) for key in ("tokens", "verdicts", "read")),
    ]
