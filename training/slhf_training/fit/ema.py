"""The exponential moving average of the trained weights.

After T steps it is the mean of the weights after each step, where those after step t count decay^(T - t). So it has no
memory of the weights before the first step, as an average that began with them would have (Adam corrects its moments
in the same way).
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from slhf_training.models.roles import Roles
from slhf_training.models.sharding import part

FOLDER = "ema"
"""In a checkpoint, beside the last weights."""


class Ema:
    """Of sharded weights each process averages its own parts; `save` and `load` want all processes."""

    def __init__(self, roles: Roles, decay: float) -> None:
        """`decay`: between 0 and 1; the last 1 / (1 - decay) steps are most of the average."""
        self._roles, self._decay = roles, decay
        self._average = [weight.clone() for weight in self._weights()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after this step, which is counted from 1."""
        share = (1 - self._decay) / (1 - self._decay**step)
        for average, weight in zip(self._average, self._weights(), strict=True):
            average.lerp_(weight, share)

    def save(self, checkpoint: Path, write: bool = True) -> None:
        with self._in_place():
            self._roles.save(checkpoint / FOLDER, write)

    def load(self, checkpoint: Path) -> None:
        """Go on from a checkpoint. One that has no average stands for all steps before it by its own weights."""
        if (checkpoint / FOLDER).is_dir():
            with self._in_place():
                self._roles.load(checkpoint / FOLDER)
            return
        for average, weight in zip(self._average, self._weights(), strict=True):
            average.copy_(weight)

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Within this the model has the average's weights, and the average has the model's."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    @torch.no_grad()
    def _exchange(self) -> None:
        for average, weight in zip(self._average, self._weights(), strict=True):
            kept = weight.clone()
            weight.copy_(average)
            average.copy_(kept)

    def _weights(self) -> Sequence[Tensor]:
        parameters: dict[int, nn.Parameter] = {id(p): p for group in self._roles.trained.values() for p in group}
        return [part(parameter.detach()) for parameter in parameters.values()]
