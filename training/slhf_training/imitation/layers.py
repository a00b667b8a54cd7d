"""A causal model in two: frozen lower layers, whose states can be kept, and upper ones that learn.

Both halves are transformers' own forward passes over the same weights; the lower one leaves out the final norm.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from slhf_training.errors import SettingsError
from slhf_training.models.packing import sees_all
from slhf_training.types import Ids


class HalvedModel:
    def __init__(self, model: Any, first: int) -> None:
        """`model`: of transformers, with what peft put into it. `first`: the first of the upper layers.

        Raises SettingsError where the layers are not alike or not where transformers' decoders have them.
        """
        body = model.base_model
        if not isinstance(getattr(body, "layers", None), nn.ModuleList) or not hasattr(body, "norm"):
            raise SettingsError(f"lora.layers: a {type(model).__name__} cannot be halved; leave lora.layers out")
        if not sees_all(model):
            raise SettingsError("lora.layers: this model's layers do not attend alike; leave lora.layers out")
        self._lower, self._upper = _part(body, body.layers[:first]), _part(body, body.layers[first:])
        self._lower.norm = nn.Identity()
        self._head = model.get_output_embeddings()
        self.device: torch.device = model.device

    @torch.no_grad()
    def states(self, ids: Ids) -> Tensor:
        """(T, H): what goes into the upper layers."""
        return self._of(self._lower(input_ids=torch.tensor([ids], device=self.device), use_cache=False))[0]

    def logits(self, states: Tensor, count: int) -> Tensor:
        """(count, V), float32: before each of the last `count` tokens; gradients end at `states`, (T, H)."""
        hidden = self._of(self._upper(inputs_embeds=states[None], use_cache=False))
        return torch.as_tensor(self._head(hidden[0, -count - 1 : -1]).float())

    @staticmethod
    def _of(output: Any) -> Tensor:
        return torch.as_tensor(output.last_hidden_state)


def _part(body: Any, layers: Sequence[nn.Module]) -> Any:
    """The body with these layers alone. All modules are shared."""
    part = copy.copy(body)
    part._modules = dict(body._modules)
    part.layers = nn.ModuleList(layers)
    return part
