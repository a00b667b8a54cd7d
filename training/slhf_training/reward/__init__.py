"""Reward models are heads on a language model's body; here they are trained, measured, asked and served.

Imported by preference, fit and evaluation.

Here is the configuration of `slhf-train reward`.
"""

from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from slhf_training.config import ModelName, RelativePath, Section
from slhf_training.data.load import DataSettings


class HeadSettings(Section):
    """One reward: what it learns, and from which examples."""

    data: DataSettings
    loss: Literal["bradley-terry", "regression"] = "bradley-terry"
    attribute: str | None = None
    """An attribute of the examples' scores. `regression` learns its value; `bradley-terry` learns which of two answers
    to one prompt has more of it. None: the examples' own pairs."""
    hold_length: bool = False
    """Leave out of the score what the log of an answer's number of words explains by itself. Only a probe can."""

    @model_validator(mode="after")
    def _target(self) -> Self:
        if self.loss == "regression" and self.attribute is None:
            raise ValueError("attribute: regression needs one")
        return self


class ProbeHeads(Section):
    """A frozen backbone: one forward pass for all heads, then convex problems with one solution each."""

    method: Literal["probe"]
    l2: tuple[Annotated[float, Field(gt=0)], ...] = Field(default=(0.1, 0.3, 1.0, 3.0, 10.0, 30.0), min_length=1)
    """Weights of half the squared norm, on standardised features. The one with the least validation loss is taken."""


class LoraHeads(Section):
    """An adapter for each head on one backbone."""

    method: Literal["lora"]
    rank: int = Field(default=16, gt=0)
    alpha: int = Field(default=32, gt=0)
    target_modules: str | tuple[str, ...] = "all-linear"
    learning_rate: float = Field(default=1e-4, gt=0)
    epochs: int = Field(default=1, gt=0)
    batch: int = Field(default=16, gt=0)
    """Pairs or scored answers per optimiser step."""
    clip: float = Field(default=1.0, gt=0)
    """The largest norm that a step's gradient may have."""


class RewardTraining(Section):
    backbone: ModelName
    output: RelativePath
    """The directory that the preference sources `reward` and `attributes` load; the report is written into it."""
    layers: tuple[int, ...] = ()
    """The layers whose hidden states are read, counted from 1; none: the last."""
    max_tokens: int = Field(default=1024, gt=1)
    """Most tokens of chat and answer together; longer ones are counted and dropped."""
    batch_tokens: int = Field(default=4096, gt=1)
    """Most tokens of one forward pass, padding included (a single longer text is read alone)."""
    training: ProbeHeads | LoraHeads = Field(discriminator="method")
    heads: dict[Annotated[str, Field(pattern=r"^[\w-]+$")], HeadSettings] = Field(min_length=1)
    validation: float = Field(default=0.1, gt=0, lt=1)
    """Share of the prompts that no head learns from."""
    seed: int = 0
    evaluation: dict[str, DataSettings] = {}
    """Held-out data by name."""

    @field_validator("heads")
    @classmethod
    def _names(cls, heads: dict[str, HeadSettings]) -> dict[str, HeadSettings]:
        if "default" in heads:
            raise ValueError("peft keeps the name default for itself")
        return heads

    @model_validator(mode="after")
    def _what_does_not_go_together(self) -> Self:
        held = [name for name, head in self.heads.items() if head.hold_length]
        if held and self.training.method != "probe":
            raise ValueError(f"heads.{held[0]}.hold_length: needs method: probe, not {self.training.method}")
        return self
