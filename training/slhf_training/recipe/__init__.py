"""From pairs to a bundle that is measured: the stages of training, put together.

No other room imports it.

The pairs' prompts are cut into parts that share none: by one part a judge learns to tell the better answer, and by
another a second judge, which measures; the roles learn on the second part's prompts, are validated on a third, and
measured once, on a fourth.
"""

from typing import Any, ClassVar, Self

from pydantic import Field, ValidationInfo, field_validator, model_validator

from slhf_training.config import ModelName, Section
from slhf_training.data.load import DataSettings
from slhf_training.evaluation import GenerationSettings
from slhf_training.fit import FitSettings, Kept
from slhf_training.reward import LoraHeads, ProbeHeads

_FOLLOW: dict[str, Any] = {
    "model": "follows",
    "output_dir": "follows",
    "data": {"files": ["follows"]},
    "preference": {"kind": "callable", "function": "follows:follows"},
    "validation": None,
}
"""Keys of fit that follow from the recipe, with something in their place while the others are read."""


class JudgesSettings(Section):
    """Two reward models, each from pairs of its own."""

    backbone: ModelName | None = None
    """What reads; None: the recipe's model."""
    held_out_backbone: ModelName | None = None
    """What reads for the judge that measures; None: the same. Another one shares fewer of the first's mistakes."""
    layers: tuple[int, ...] = ()
    """As in `slhf-train reward`."""
    max_tokens: int = Field(default=1024, gt=1)
    training: ProbeHeads | LoraHeads = Field(default=ProbeHeads(method="probe"), discriminator="method")
    hold_length: bool = True
    """Leave out of a probe's score what an answer's length explains; else the roles learn to write more."""

    @model_validator(mode="after")
    def _only_a_probe_holds_length(self) -> Self:
        if self.hold_length and self.training.method != "probe":
            raise ValueError(f"hold_length: {self.training.method} cannot; say false")
        return self


class MeasuringSettings(Section):
    """What is measured at the end, on prompts that nothing was chosen by."""

    prompts: int = Field(default=100, gt=0)
    rounds: int = Field(default=2, gt=0)
    generation: GenerationSettings = GenerationSettings()
    """`temperature` and `max_new_tokens`, where they are not given: those of the fit's `rollout`."""


class RecipeSettings(Kept):
    fixed: ClassVar[frozenset[str]] = frozenset({"data", "model", "judges", "fit"})
    data: DataSettings
    """Pairs: each row has `chosen` and `rejected`."""
    model: ModelName = Field(min_length=1)
    judges: JudgesSettings = JudgesSettings()
    fit: dict[str, Any] = {}
    """Any other keys of `slhf-train fit`."""
    measuring: MeasuringSettings = MeasuringSettings()
    """It may change in a run that goes on: what is trained stays."""

    @field_validator("fit")
    @classmethod
    def _as_fit_reads_it(cls, given: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        """With whole paths."""
        if follows := sorted(_FOLLOW.keys() & given.keys()):
            raise ValueError(f"{follows[0]}: follows from the recipe's other keys")
        read = FitSettings.model_validate(given | _FOLLOW, context=info.context)
        return {key: value for key, value in read.model_dump(mode="json").items() if key in given}

    @model_validator(mode="after")
    def _parts_are_the_recipes(self) -> Self:
        if self.data.part != (0.0, 1.0):
            raise ValueError("data.part: the recipe cuts the pairs into parts of its own")
        return self
