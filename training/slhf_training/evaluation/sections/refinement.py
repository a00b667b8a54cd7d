"""Every follower on every leader's drafts, once."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import numpy as np
from matplotlib.figure import Figure
from pydantic import Field

from slhf_training.config import Section
from slhf_training.evaluation.chains import Chain, refined
from slhf_training.evaluation.markdown import CHANGES, DUEL, change_cells, duel_cells, estimate, heading, table
from slhf_training.evaluation.measurement import Measurement
from slhf_training.evaluation.plots import heat_map, value_of
from slhf_training.evaluation.study import Row, Study


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

    def figures(self, study: Study) -> Row:
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
