"""Every player against every other."""

from collections.abc import Iterator, Mapping
from itertools import combinations
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from slhf_training.config import Section
from slhf_training.evaluation.chains import Chain, Player, label, parsed
from slhf_training.evaluation.markdown import DUEL, described, duel_cells, estimate, heading, table
from slhf_training.evaluation.measurement import Measurement
from slhf_training.evaluation.plots import heat_map, value_of
from slhf_training.evaluation.study import Row, Study


class RoundRobinSettings(Section):
    players: tuple[Player, ...] = Field(min_length=2)


class RoundRobin(Measurement[RoundRobinSettings]):
    name: ClassVar[str] = "round_robin"
    place: ClassVar[int] = 20
    settings: ClassVar[type[Section]] = RoundRobinSettings

    @classmethod
    def chains(cls, how: RoundRobinSettings) -> list[Chain]:
        return list(dict.fromkeys(map(parsed, how.players)))

    def figures(self, study: Study) -> Row:
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


def _cell(preference: Mapping[tuple[str, str], Row | None], row: str, column: str) -> str:
    """Duels are there in one direction; the other is one minus it."""
    if row == column:
        return ""
    if (row, column) in preference:
        return estimate(preference[row, column])
    there = preference[column, row]
    return estimate(there and {"value": 1 - there["value"], "low": 1 - there["high"], "high": 1 - there["low"]})
