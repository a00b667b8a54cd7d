"""Gradients, clipped. One that is not finite is not learnt from: such a step would be the end of all weights."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from slhf_training.errors import TrainingError
from slhf_training.models import sharding

SKIPS = 5
"""So many steps in a row without a finite gradient, and the run stops."""


class Clip:
    def __init__(self, most: float, checkpoints: Path) -> None:
        """`most`: the largest norm that a group's gradient keeps."""
        self._most, self._checkpoints = most, checkpoints
        self._skipped = 0

    @property
    def has_skipped(self) -> bool:
        """The last step's gradient, which is gone."""
        return self._skipped > 0

    def __call__(self, groups: Mapping[str, Sequence[nn.Parameter]], step: int) -> dict[str, float]:
        """The norms before clipping, of the groups that have a gradient. Raises TrainingError after `SKIPS` steps."""
        norms = {
            name: sharding.whole(torch.nn.utils.clip_grad_norm_(parameters, self._most)).item()
            for name, parameters in groups.items()
            if any(parameter.grad is not None for parameter in parameters)
        }
        self._skipped = 0 if all(map(math.isfinite, norms.values())) else self._skipped + 1
        if self._skipped == SKIPS:
            raise TrainingError(
                f"step {step}: no finite gradient for {SKIPS} steps; the checkpoints in {self._checkpoints} are whole"
            )
        if self.has_skipped:
            for parameters in groups.values():
                for parameter in parameters:
                    parameter.grad = None
        return norms
