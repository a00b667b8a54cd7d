"""Models: how they are loaded, prompted, adapted and split over processes, and how they score answers.

Imported by rollout, reward, preference, fit, evaluation, distill, imitation and lessons.
"""

from typing import Self

from pydantic import Field, model_validator

from slhf_training.config import Section

ALL_LINEAR = "all-linear"


class Lora(Section):
    r: int = Field(default=16, gt=0)
    alpha: float = Field(default=32, gt=0)
    target_modules: str | list[str] = ALL_LINEAR
    """Which modules get an adapter, under peft's name for this."""
    layers: tuple[int, int] | None = None
    """[first, end]: adapters in blocks first to end - 1 alone, counted from 0; [21, 28] are the upper 7 of 28. None: in
    all. The states of the blocks below do not change in training, and no gradient passes through them."""

    @model_validator(mode="after")
    def _layers_are_a_range(self) -> Self:
        if self.layers is None:
            return self
        first, end = self.layers
        if not 0 <= first < end:
            raise ValueError(f"layers: expected [first, end] with 0 <= first < end, got {[first, end]}")
        if isinstance(self.target_modules, str) and self.target_modules != ALL_LINEAR:
            raise ValueError(f"layers: needs target_modules: {ALL_LINEAR} or a list, not {self.target_modules!r}")
        return self
