"""Two roles on one model, which differ in the adapter that is on.

    weights    trained                                   reference
    separate   adapters `leader` and `follower`          the base with adapters off, to the bit
    shared     one adapter `policy` for both roles       the same
    full       every weight of the model, both roles     a frozen copy in the rollout's dtype

peft's own switches also toggle `requires_grad`, which would take the gradient of the adapter that is not on and change
the optimiser's groups on resume; `use` puts it back.

Where the model is sharded, the copy that computes log-probs is split over the processes, and each process has a whole
copy that samples.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from safetensors.torch import save as dump
from torch import nn
from transformers.pytorch_utils import Conv1D

from slhf.weights import write_weights
from slhf_training.errors import SettingsError
from slhf_training.models import ALL_LINEAR, Lora
from slhf_training.models.adapters import factors_of
from slhf_training.models.sharding import like, whole, without_launcher
from slhf_training.types import ROLES, Role

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}


class Roles:
    def __init__(
        self,
        base: Any,
        weights: Literal["separate", "shared", "full"] = "separate",
        lora: Lora | None = None,
        players: Sequence[Role] = ROLES,
        rollout_dtype: torch.dtype | None = None,
        merges: bool = True,
    ) -> None:
        """`players`: the roles that learn. With separate weights each has an adapter; others use the first's.

        `merges`: whether `merged` will be called; with adapters, or sharded, that takes a copy of the model.
        """
        _without_dropout(base)
        base.requires_grad_(False)
        base.eval()
        names = list(players) if weights == "separate" else ["policy"]
        self.adapter_of: dict[Role, str] = {role: role if role in names else names[0] for role in ROLES}
        self.weights = weights
        # With adapters this copy samples; in full fine-tuning it is the reference.
        self._copy: Any = copy.deepcopy(base) if merges or weights == "full" else None
        self._second_copy: Any = None  # for the other of these two uses, where the model is sharded
        self._merges = merges
        self.is_sharded = False
        self._layers: dict[str, Any] = {}
        if self._copy is not None:
            self._copy.to(rollout_dtype or base.dtype)
        if weights == "full":
            self.model = base.requires_grad_(True)
            self.trained = self._find_trained(names)
            return
        self.model = with_adapters(base, names, lora or Lora())
        injected = self.model.get_base_model().named_modules()
        self._layers = {name: module for name, module in injected if isinstance(module, LoraLayer)}
        self.trained = self._find_trained(names)
        self._restore()

    def _find_trained(self, names: Sequence[str]) -> dict[str, list[nn.Parameter]]:
        if self.weights == "full":
            return {name: list(self.model.parameters()) for name in names}
        named = list(self.model.named_parameters())
        return {name: [p for key, p in named if "lora_" in key and f".{name}." in key] for name in names}

    def shard(self, split: Callable[[nn.Module], None]) -> None:
        """Split the model over the processes. `trained` holds other parameters from then on."""
        if self.weights == "full" and self._merges:
            self._second_copy = copy.deepcopy(self._copy)
        split(self.model)
        self.is_sharded = True
        self.trained = self._find_trained(list(self.trained))

    @property
    def device(self) -> torch.device:
        return torch.device(self.model.device)

    def use(self, role: Role) -> Any:
        """Return the model to call; it speaks as this role, and all trained parameters take gradients."""
        for layer in self._layers.values():
            layer.enable_adapters(True)
            layer.set_adapter(self.adapter_of[role])
        self._restore()
        return self.model

    def use_reference(self) -> Any:
        """Return the model to call; it speaks as the frozen reference until `use` is called."""
        if self.weights == "full":
            return self._copy.to(self.device)
        for layer in self._layers.values():
            layer.enable_adapters(False)
        self._restore()
        return self.model

    @torch.no_grad()
    def sampling_reference(self) -> Any:
        """Return the reference for sampling. It stays valid beside the model that `merged` returns."""
        if self.weights == "full" or not self.is_sharded:
            return self.use_reference()
        if self._second_copy is None:
            self._second_copy = copy.deepcopy(self._copy).to(self.device)
            for name, layer in self._layers.items():
                self._second_copy.get_submodule(name).weight.copy_(whole(layer.get_base_layer().weight))
        return self._second_copy

    @torch.no_grad()
    def merged(self, role: Role) -> Any:
        """Return a model without adapters that speaks as this role, for sampling, until the next call or update.

        Where the model is sharded, it is whole, and all processes must ask for it.

        Sampling with the adapter on, and nothing merged, is cheaper for very short answers alone. On a CPU with 135M
        parameters and rank 16, merging takes 0.2 CPU seconds, and one answer of 4, 8, 16, 64 tokens takes unmerged
        .87, .96, 1.05, 1.15 times the CPU time in float32 and .72, .85, .94, 1.28 in bfloat16; two at once are alike
        (2026-11-29, other work ran beside). Answers of 64 tokens and more are what is trained on.
        """
        if self.weights == "full":
            return self._gathered() if self.is_sharded else self.model
        assert self._copy is not None, "made with merges=False"
        self._copy.to(self.device)
        if self.device.type == "cpu":
            # One query on a cache in bfloat16: torch 2.13 takes 1.2 ms with its fused attention, 0.1 ms without.
            self._copy.set_attn_implementation("eager")
        for name, layer in self._layers.items():
            merged = layer.get_base_layer().weight + layer.get_delta_weight(self.adapter_of[role])
            self._copy.get_submodule(name).weight.copy_(whole(merged))
        return self._copy

    def _gathered(self) -> Any:
        plain = self._second_copy.to(self.device)
        for name, parameter in self.model.named_parameters():
            plain.get_parameter(name).copy_(whole(parameter))
        return plain

    def revision(self, role: Role | None) -> str:
        """Return a name for the weights that speak as this role, or as the reference (None), as they are now.

        torch counts how often a tensor was changed in place (`_version`, by which autograd finds that a tensor is no
        longer what it was); what is written through `.data` it does not count. All processes have the same name.
        """
        if role is None:
            return "reference"
        name = self.adapter_of[role]
        return f"{name}-{sum(parameter._version for parameter in self.trained[name])}"

    def merged_state(self, role: Role | None) -> dict[str, torch.Tensor]:
        return dict(self.merged_weights(role))

    @torch.no_grad()
    def merged_weights(self, role: Role | None, dtype: torch.dtype | None = None) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the weights of the whole model that speaks as this role, or as the reference (None).

        They have the base's names and, without a `dtype`, its dtype. Where the model is sharded, all processes must
        take them all: each is gathered when it is asked for, in the dtype that it is wanted in.
        """
        if self.weights == "full":
            for name, weight in (self.model if role else self._copy).state_dict().items():
                yield name, whole(weight.to(dtype or self.model.dtype))
            return
        for key, weight in self.model.get_base_model().state_dict().items():
            if "lora_" in key:
                continue
            name = key.replace(".base_layer.", ".")
            layer = self._layers.get(name.removesuffix(".weight"))
            if role and layer is not None:
                weight = weight + layer.get_delta_weight(self.adapter_of[role]).to(weight.dtype)
            yield name, whole(weight.to(dtype or weight.dtype))

    def save(self, directory: Path, write: bool = True) -> None:
        """Write the adapters in peft's format, a folder each, or the model's weights.

        Where the model is sharded, all processes must call it; those that do not write give their parts.
        """
        if self.weights == "full":
            model = self._written(write) if self.is_sharded else self.model
            if write:
                write_weights(model, directory)
            return
        for name in self.trained:
            weights = self.adapter(name)
            if write:
                self.write_adapter(name, directory / name, weights)

    @torch.no_grad()
    def _written(self, write: bool) -> Any:
        """A sharded model's weights, whole and as they are trained, on the CPU of the process that writes."""
        plain = copy.deepcopy(self._copy).to("cpu", self.model.dtype) if write else None
        for name, parameter in self.model.named_parameters():
            gathered = whole(parameter)
            if plain is not None:
                plain.get_parameter(name).copy_(gathered)
        return plain

    @torch.no_grad()
    def adapter(self, name: str) -> bytes:
        """Return an adapter's weights as peft and safetensors write them.

        Where the model is sharded, all processes must call it.
        """
        return dump({key: whole(value).contiguous() for key, value in self._adapter(name).items()})

    def write_adapter(self, name: str, directory: Path, weights: bytes) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "adapter_model.safetensors").write_bytes(weights)
        self.model.peft_config[name].save_pretrained(str(directory))

    def begin_with(self, directory: Path) -> None:
        """Take the adapters of a checkpoint or a bundle. Raises SettingsError, naming `adapter`, for other shapes."""
        for name in self.trained:
            try:
                begun = {key: value.shape for key, value in factors_of(directory / name).items()}
                alpha = LoraConfig.from_pretrained(str(directory / name)).lora_alpha
            except (OSError, ValueError) as exc:
                raise SettingsError(f"adapter: {directory / name} holds no adapter: {exc}") from exc
            ours = {key: value.shape for key, value in self._adapter(name).items()}
            if begun != ours or alpha != self.model.peft_config[name].lora_alpha:
                raise SettingsError(
                    f"adapter: {directory / name} has not the rank, alpha, modules and layers of `lora`"
                )
        self.load(directory)

    @torch.no_grad()
    def load(self, directory: Path) -> None:
        """Read what `save` wrote into the same parameters."""
        if self.weights == "full":
            with without_launcher():
                loaded = type(self._copy).from_pretrained(directory, dtype=self.model.dtype)
            for name, parameter in self.model.named_parameters():
                parameter.copy_(like(loaded.get_parameter(name), parameter))
            return
        for name in self.trained:
            state = load_file(directory / name / "adapter_model.safetensors")
            for key, value in self._adapter(name).items():
                value.copy_(like(state[key], value))

    def _adapter(self, name: str) -> dict[str, torch.Tensor]:
        """Return views of an adapter's weights by peft's names."""
        return dict(get_peft_model_state_dict(self.model, adapter_name=name, save_embedding_layers=False))

    def _restore(self) -> None:
        for parameters in self.trained.values():
            for parameter in parameters:
                parameter.requires_grad_(True)


def with_adapters(base: Any, names: Sequence[str], lora: Lora) -> Any:
    """Return the base with an adapter of each name. Raises SettingsError for layers that it does not have."""
    where = {"target_modules": lora.target_modules} if lora.layers is None else _in_layers(base, lora, *lora.layers)

    def config() -> LoraConfig:
        return LoraConfig(r=lora.r, lora_alpha=lora.alpha, lora_dropout=0.0, task_type="CAUSAL_LM", **where)

    model = get_peft_model(base, config(), adapter_name=names[0])
    for name in names[1:]:
        model.add_adapter(name, config())
    return model


def _in_layers(base: Any, lora: Lora, first: int, end: int) -> dict[str, Any]:
    """Return peft's arguments for adapters on some layers. peft takes these only with names, so `all-linear` is spelt
    out as names."""
    if end > (count := base.config.get_text_config().num_hidden_layers):
        raise SettingsError(f"lora.layers: the model has layers 0 to {count - 1}, got {[first, end]}")
    names = lora.target_modules
    if names == ALL_LINEAR:
        head = base.get_output_embeddings()
        linear = {name: module for name, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D)}
        names = sorted({name.rpartition(".")[2] for name, module in linear.items() if module is not head})
    return {"target_modules": names, "layers_to_transform": list(range(first, end))}


def _without_dropout(model: nn.Module) -> None:
    """Switch dropout off.

    A policy's log-probs must be those it sampled with, also where gradient checkpointing needs training mode.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if hasattr(module, "attention_dropout"):
            setattr(module, "attention_dropout", 0.0)  # noqa: B010
