"""Open prompts, where no program can tell: what a panel says of refinements against their drafts, where it speaks."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from slhf_training.config import Section
from slhf_training.evaluation.answers import GIVEN, Chain, Slot
from slhf_training.evaluation.pages import estimate, heading, number, percent, table
from slhf_training.evaluation.prompts import Case, Prompt, TaskSettings, read_cases
from slhf_training.evaluation.sections import Measurement
from slhf_training.evaluation.statistics import length_controlled, preferred
from slhf_training.evaluation.study import Figures, SectionData, row_of

OWN, OTHERS = "own Leader", "all other models"


class PanelSectionSettings(Section):
    tasks: dict[str, TaskSettings] = Field(min_length=1)
    """Prompts, and whose answers to them are refined; leaders may be files of drafts."""
    followers: tuple[str, ...] = Field(min_length=1)


class PanelSection(Measurement[PanelSectionSettings]):
    """The judge is the configuration's `preference`: its NaN is the panel's silence."""

    name: ClassVar[str] = "panel"
    place: ClassVar[int] = 10
    settings: ClassVar[type[Section]] = PanelSectionSettings
    needs: ClassVar[frozenset[str]] = frozenset({"preference"})

    def __init__(self, how: PanelSectionSettings, main: Mapping[str, Prompt], limit: int | None) -> None:
        self._cases = {name: read_cases(f"panel.tasks.{name}", task, limit, False) for name, task in how.tasks.items()}
        cases = [case for task in self._cases.values() for case in task]
        super().__init__(how, {prompt.id: prompt for case in cases for prompt in (case.prompt, case.drafted)}, limit)

    @classmethod
    def chains(cls, how: PanelSectionSettings) -> list[Chain]:
        leaders = {leader for task in how.tasks.values() for leader in task.leaders}
        return [(one, two) for one in (*sorted(leaders), *how.followers) for two in how.followers]

    def given(self) -> Mapping[str, str]:
        return {prompt.id: prompt.draft for prompt in self.prompts.values() if prompt.draft is not None}

    def wanted(self) -> list[Slot]:
        found = [
            case.slot(chain)
            for name, task in self.how.tasks.items()
            for case in self._cases[name]
            for writer in task.writers
            for chain in ((writer,), *((writer, follower) for follower in self.how.followers))
        ]
        return sorted(found, key=lambda slot: len(slot.chain))

    def figures(self, study: SectionData) -> Figures:
        return {follower: self._of_follower(study, follower) for follower in self.how.followers}

    def _of_follower(self, study: SectionData, follower: str) -> list[Figures]:
        """Rows by the draft's writer over all tasks, the Follower's own Leader first, and then by task."""
        pairs = [
            _Refined(name, follower, case.model if writer == GIVEN else writer, case, (writer, follower))
            for name, task in self.how.tasks.items()
            for writer in task.writers
            for case in self._cases[name]
        ]
        pairs = [pair for pair in pairs if study.answers.texts([pair.before])[0] is not None]
        writers = dict.fromkeys(pair.writer for pair in pairs)
        groups = {
            ("all", OWN): [pair for pair in pairs if pair.is_own],
            ("all", OTHERS): [pair for pair in pairs if not pair.is_own],
            **{("all", one): [p for p in pairs if p.writer == one] for one in writers if one != follower},
            **{(task, OWN): [p for p in pairs if p.task == task and p.is_own] for task in self.how.tasks},
            **{(task, OTHERS): [p for p in pairs if p.task == task and not p.is_own] for task in self.how.tasks},
        }
        return [{"task": task, "drafts": who, **_verdict(study, some)} for (task, who), some in groups.items() if some]

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        for follower, rows in figures.items():
            yield from heading(
                f"Panel: refined by {follower}",
                "Open prompts. *Win rate*: how often the refinement is preferred to its draft, where the panel speaks. "
                "*Speaks*: of the pairs whose texts differ. *Harm* and *help*: of all drafts, where the panel prefers "
                "the draft, and the refinement; of the rest it says nothing, or nothing was changed.",
            )
            columns = ["task", "drafts of", "drafts", "unchanged", "speaks", "win rate", "win rate at equal length"]
            yield from table([*columns, "harm", "help", "words before / after"], map(_cells, rows))
            yield ""


class _Refined:
    """A refinement and its draft."""

    def __init__(self, task: str, follower: str, writer: str, case: Case, chain: Chain) -> None:
        self.task, self.writer, self.prompt = task, writer, case.prompt.id
        self.is_own = chain[0] == follower
        self.before, self.after = case.slot(chain[:1]), case.slot(chain)


def _verdict(study: SectionData, pairs: Sequence[_Refined]) -> Figures:
    """Texts that do not differ are no question to the panel: neither verdict nor silence."""
    before, after = (
        [text or "" for text in study.answers.texts(slots)]
        for slots in ([pair.before for pair in pairs], [pair.after for pair in pairs])
    )
    differ = np.array([one.strip() != two.strip() for one, two in zip(before, after, strict=True)])
    p = np.where(differ, study.judged([(pair.after, pair.before) for pair in pairs]), np.nan)
    spoke = ~np.isnan(p)
    longer = np.array([len(two) - len(one) for one, two in zip(before, after, strict=True)], dtype=np.float64)
    prompts = [pair.prompt for pair in pairs]

    def mean(values: Any) -> Figures | None:
        return row_of(study.bootstrap.mean_by(np.asarray(values, dtype=np.float64), prompts))

    return {
        "pairs": len(pairs),
        "prompts": len(set(prompts)),
        "judged": int(spoke.sum()),
        "unchanged": mean(~differ),
        "coverage": mean(np.where(differ, spoke, np.nan)),
        "win_rate": mean(preferred(p)),
        "length_controlled": row_of(length_controlled(p[spoke], longer[spoke], study.bootstrap)),
        "harm": mean(spoke & (p < 0.5)),
        "help": mean(spoke & (p > 0.5)),
        "words": [float(np.mean([len(text.split()) for text in texts])) for texts in (before, after)],
    }


def _cells(row: Mapping[str, Any]) -> list[Any]:
    shares = [percent(row[key]) for key in ("unchanged", "coverage")]
    rates = [estimate(row[key]) for key in ("win_rate", "length_controlled")]
    sides = [percent(row[key]) for key in ("harm", "help")]
    return [row["task"], row["drafts"], row["pairs"], *shares, *rates, *sides, " / ".join(map(number, row["words"]))]
