"""Duels: who wins against whom, whether the Follower wins against the text that it refines, and round by round."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from pydantic import Field

from slhf_training.config import Section
from slhf_training.evaluation.answers import Chain, ChainLabel, label, parsed, refined
from slhf_training.evaluation.pages import (
    CHANGES,
    DUEL,
    change_cells,
    curve,
    described,
    duel_cells,
    estimate,
    heading,
    heat_map,
    number,
    table,
    value_of,
)
from slhf_training.evaluation.sections import Measurement
from slhf_training.evaluation.statistics import Numbers
from slhf_training.evaluation.study import Figures, SectionData, row_of


class RoundRobinSettings(Section):
    players: tuple[ChainLabel, ...] = Field(min_length=2)


class RoundRobin(Measurement[RoundRobinSettings]):
    name: ClassVar[str] = "round_robin"
    place: ClassVar[int] = 20
    settings: ClassVar[type[Section]] = RoundRobinSettings

    @classmethod
    def chains(cls, how: RoundRobinSettings) -> list[Chain]:
        return list(dict.fromkeys(map(parsed, how.players)))

    def figures(self, study: SectionData) -> Figures:
        """A duel says how often `row` beats `column`."""
        chains = self.chains(self.how)
        duels = [
            {"row": label(one), "column": label(two), **study.duel(one, two)} for one, two in combinations(chains, 2)
        ]
        return {"players": {label(chain): study.described(chain) for chain in chains}, "duels": duels}

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        names = list(figures["players"])
        preference = {(duel["row"], duel["column"]): duel["preference"] for duel in figures["duels"]}
        yield from heading("Round robin", "How often the row's answer is preferred to the column's.")
        yield from table(
            ["", *names], ([f"**{row}**", *(_cell(preference, row, column) for column in names)] for row in names)
        )
        yield ""
        yield from table(
            ["pair", *DUEL],
            ([f"{duel['row']} against {duel['column']}", *duel_cells(duel)] for duel in figures["duels"]),
        )
        yield ""
        yield from table(
            ["player", "words", "characters", "cut at the limit", "kept the draft", "refused"],
            ([name, *described(player)] for name, player in figures["players"].items()),
        )

    @staticmethod
    def picture(figures: Mapping[str, Any]) -> Figure:
        names = list(figures["players"])
        values = np.full((len(names), len(names)), np.nan)
        for duel in figures["duels"]:
            place = names.index(duel["row"]), names.index(duel["column"])
            values[place] = value_of(duel["preference"])
            values[place[::-1]] = 1 - values[place]
        return heat_map(values, names, names, "The row's answer is preferred to the column's")


def _cell(preference: Mapping[tuple[str, str], Figures | None], row: str, column: str) -> str:
    """Duels are there in one direction; the other is one minus it."""
    if row == column:
        return ""
    if (row, column) in preference:
        return estimate(preference[row, column])
    there = preference[column, row]
    return estimate(there and {"value": 1 - there["value"], "low": 1 - there["high"], "high": 1 - there["low"]})


class RefinementSettings(Section):
    """Every follower refines every leader's draft, once."""

    leaders: tuple[str, ...] = Field(min_length=1)
    followers: tuple[str, ...] = Field(min_length=1)


class Refinement(Measurement[RefinementSettings]):
    name: ClassVar[str] = "refinement"
    place: ClassVar[int] = 30
    settings: ClassVar[type[Section]] = RefinementSettings

    @classmethod
    def chains(cls, how: RefinementSettings) -> list[Chain]:
        return [refined(leader, follower, 1) for leader in how.leaders for follower in how.followers]

    def figures(self, study: SectionData) -> Figures:
        """Refinements against those very drafts."""
        return {
            "duels": [
                {
                    "leader": after[0],
                    "follower": after[1],
                    **study.duel(after, after[:1]),
                    "changes": study.changes(after[:1], after),
                    "refined": study.described(after),
                }
                for after in self.chains(self.how)
            ]
        }

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        duels = {(duel["leader"], duel["follower"]): duel for duel in figures["duels"]}
        leaders, followers = (list(dict.fromkeys(key[side] for key in duels)) for side in (0, 1))
        yield from heading(
            "Refinement", "How often the column's refinement of the row's draft is preferred to that very draft."
        )
        yield from table(
            ["draft of", *followers],
            ([f"**{one}**", *(estimate(duels[one, two]["preference"]) for two in followers)] for one in leaders),
        )
        yield ""
        yield from table(
            ["draft > refined by", *DUEL, *CHANGES, "kept the draft"],
            (
                [f"{one} > {two}", *duel_cells(duel), *change_cells(duel["changes"]), duel["refined"]["kept_the_draft"]]
                for (one, two), duel in duels.items()
            ),
        )

    @staticmethod
    def picture(figures: Mapping[str, Any]) -> Figure:
        duels = {(duel["leader"], duel["follower"]): value_of(duel["preference"]) for duel in figures["duels"]}
        leaders, followers = (list(dict.fromkeys(key[side] for key in duels)) for side in (0, 1))
        values = np.array([[duels[one, two] for two in followers] for one in leaders])
        return heat_map(values, leaders, followers, "The column's refinement is preferred to the row's draft")


class RoundsSettings(Section):
    leaders: tuple[str, ...] = Field(min_length=1)
    followers: tuple[str, ...] = Field(min_length=1)
    rounds: int = Field(default=5, gt=0)


class Rounds(Measurement[RoundsSettings]):
    name: ClassVar[str] = "rounds"
    place: ClassVar[int] = 40
    settings: ClassVar[type[Section]] = RoundsSettings

    @classmethod
    def chains(cls, how: RoundsSettings) -> list[Chain]:
        return [refined(leader, follower, how.rounds) for leader in how.leaders for follower in how.followers]

    def figures(self, study: SectionData) -> Figures:
        """The curves of all chains, beside as many independent answers where a Leader was sampled several times."""
        return {"curves": [self._curve(study, chain) for chain in self.chains(self.how)]}

    def _curve(self, study: SectionData, last: Chain) -> Figures:
        leader, follower = last[:2]
        chains = [refined(leader, follower, number) for number in range(self.how.rounds + 1)]
        found: Figures = {"leader": leader, "follower": follower, "rounds": _rows(study, chains)}
        if leader in study.samples:
            samples = min(study.samples[leader], len(chains))
            found["best_of_samples"] = _best_of_samples(study, (leader,), samples)
        return found

    @staticmethod
    def markdown(figures: Mapping[str, Any]) -> Iterator[str]:
        for one in figures["curves"]:
            yield from heading(
                f"Rounds: {one['leader']} refined by {one['follower']}",
                "Each round against round 0. *Best of* is the best of the rounds so far for each prompt, as this judge "
                "sees it: an upper bound, because the judge that chooses is the one that measures.",
            )
            sampled = one.get("best_of_samples", [])
            yield from table(
                ["round", "preference", "length-controlled", "best of", "best of as many samples", "words", *CHANGES],
                (_cells(row, sampled) for row in one["rounds"]),
            )
            yield ""

    @staticmethod
    def picture(figures: Mapping[str, Any]) -> Figure:
        figure = Figure(figsize=(10, 4.5), layout="constrained")
        against, words = figure.subplots(1, 2)
        for one in figures["curves"]:
            _draw(one, against, words)
        against.set(xlabel="round", ylabel="preferred to round 0", ylim=(0, 1))
        words.set(xlabel="round", ylabel="words", ylim=(0, None))
        for axes in (against, words):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(alpha=0.3)
            axes.legend(fontsize="small")
        return figure


def _rows(study: SectionData, chains: Sequence[Chain]) -> list[Figures]:
    draft, *later = chains
    drafts = study.slots(draft)
    p = [study.judged(list(zip(study.slots(chain), drafts, strict=True))) for chain in later]
    found = [{"round": 0, **study.described(draft), "best_of": row_of(study.bootstrap.mean(_best(p[:0], len(drafts))))}]
    for place, (before, chain) in enumerate(zip(chains, later, strict=False), start=1):
        found.append(
            {
                "round": place,
                **study.described(chain),
                "against_draft": study.duel(chain, draft),
                "best_of": row_of(study.bootstrap.mean(_best(p[:place], len(drafts)))),
                "changes": study.changes(before, chain),
            }
        )
    return found


def _best_of_samples(study: SectionData, chain: Chain, samples: int) -> list[Figures | None]:
    first = study.slots(chain)
    p = [study.judged(list(zip(study.slots(chain, place), first, strict=True))) for place in range(1, samples)]
    return [row_of(study.bootstrap.mean(_best(p[:place], len(first)))) for place in range(samples)]


def _best(p: Sequence[Numbers], n: int) -> Numbers:
    """(N,): the best p, against the first answer, of the first answer itself (a tie) and those that follow it."""
    return np.asarray(np.nanmax(np.stack([np.full(n, 0.5), *p]), axis=0), dtype=np.float64)


def _cells(row: Mapping[str, Any], sampled: Sequence[Figures | None]) -> list[Any]:
    return [
        row["round"],
        *(estimate(row.get("against_draft", {}).get(key)) for key in ("preference", "length_controlled")),
        estimate(row["best_of"]),
        estimate(sampled[row["round"]] if row["round"] < len(sampled) else None),
        number(row["words"]),
        *change_cells(row.get("changes", {})),
    ]


def _draw(one: Mapping[str, Any], against: Any, words: Any) -> None:
    rows = one["rounds"]
    name = f"{one['leader']} > {one['follower']}"
    tie = {"value": 0.5, "low": 0.5, "high": 0.5}
    line = curve(against, name, [tie, *(row["against_draft"]["preference"] for row in rows[1:])], "o-")
    curve(against, f"{name}, best so far", [row["best_of"] for row in rows], "s--", line)
    if "best_of_samples" in one:
        curve(against, f"{one['leader']}, best of as many samples", one["best_of_samples"], "^:", line)
    words.plot(range(len(rows)), [np.nan if row["words"] is None else row["words"] for row in rows], "o-", label=name)
