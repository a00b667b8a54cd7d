"""Many processes: what the launcher asks for, how gradients add up, and weights of which each process holds a part.

    DDP     each process holds the model; one all-reduce sums the gradients, when all of them are there
    FSDP2   each process holds a part of every weight; a block is gathered while it computes, and each backward pass
            leaves every process the sum of its part's gradients

`accelerate launch` hands its configuration on in environment variables. They are read here, `fully_shard` is called
here, and accelerate sees plain processes. Its own way shards only on accelerators, so no test on CPUs would run it; it
swaps the parameters in the middle of `Trainer.train`, unknown to roles and optimiser; and transformers then writes the
frozen base into every checkpoint. Here the first process writes whole tensors, the same as one process alone writes, so
any number of processes can go on from a checkpoint.
"""

import atexit
import contextlib
import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed
from accelerate import PartialState
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor

from slhf_training.errors import SettingsError

FSDP_SWITCH = "ACCELERATE_USE_FSDP"
_PATIENCE = timedelta(minutes=30)  # to wait for the slowest process, as transformers does; torch's NCCL has 10


@dataclass(frozen=True, slots=True)
class Sharding:
    """FSDP2, as accelerate's configuration asks for it."""

    reshard_after_forward: bool
    blocks: frozenset[str]
    """Names of the classes whose weights are gathered as one. Empty: those that transformers says must not be split."""

    def split(self, model: Any, device: torch.device, computes_in: torch.dtype | None = None) -> None:
        """Leave this process its part of each weight, in place; the parameters are new ones.

        `computes_in`: a block's weights are cast to this before they are gathered (None: stay as they are). Gradients
        are added up in float32 and reach the optimiser in the dtype of the parts.
        """
        reduce_in = None if computes_in is None else torch.float32
        policy = MixedPrecisionPolicy(param_dtype=computes_in, reduce_dtype=reduce_in)
        mesh = init_device_mesh(device.type, (torch.distributed.get_world_size(),))
        blocks = self.blocks or frozenset(model._no_split_modules)
        for module in [m for m in model.modules() if type(m).__name__ in blocks]:
            fully_shard(module, mesh=mesh, reshard_after_forward=self.reshard_after_forward, mp_policy=policy)
        fully_shard(model, mesh=mesh, reshard_after_forward=self.reshard_after_forward, mp_policy=policy)
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.set_gradient_divide_factor(1.0)  # each process's loss is its share of one loss: sums, not means
                module.set_force_sum_reduction_for_comms(True)  # gloo can reduce in no other way


def from_launcher() -> Sharding | None:
    """Return how the model is to be split; None: not at all. Raises SettingsError for what is not supported."""
    if _is_on("ACCELERATE_USE_DEEPSPEED"):
        raise SettingsError("accelerate's distributed_type: DEEPSPEED is not supported: use FSDP with fsdp_version: 2")
    if os.environ.get("ACCELERATE_MIXED_PRECISION", "no") != "no":
        raise SettingsError("accelerate's mixed_precision: say 'no' there; optimisation.autocast decides")
    if _is_on("ACCELERATE_USE_PARALLELISM_CONFIG"):
        raise SettingsError("accelerate's parallelism_config is not supported")
    return _fsdp(FullyShardedDataParallelPlugin()) if _is_on(FSDP_SWITCH) else None


def this_process() -> PartialState:
    """Return this process's device, its number, and how many there are.

    At the first call the processes find each other.
    """
    return PartialState(cpu=not has_accelerator(), timeout=_PATIENCE)


def has_accelerator() -> bool:
    """Return whether there is an accelerator to use. Apple's is not: it has no float64, in which tokens are drawn."""
    found = torch.accelerator.current_accelerator(check_available=True)
    return found is not None and found.type != "mps"


def end_together() -> None:
    """End the process; all processes call this when nothing is left to do. Where there are several, it does not return.

    gloo's threads let go of a gathered tensor some time after it has come, and need the interpreter for it: if that
    ends meanwhile, the process is aborted (torch 2.13). A barrier only makes this rare, and the threads outlive the
    groups. So what Python does at its end is done here, and the process exits while the interpreter is still there.
    """
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        atexit._run_exitfuncs()  # trackers send their last figures there; vLLM ends its groups, and then all groups
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _fsdp(asked: Any) -> Sharding:
    refused = {
        f"fsdp_version: {asked.fsdp_version} is not supported: use 2": asked.fsdp_version != 2,
        "fsdp_offload_params is not supported": isinstance(asked.cpu_offload, CPUOffloadPolicy),
        "fsdp_activation_checkpointing: use optimisation.gradient_checkpointing": asked.activation_checkpointing,
    }
    for said, is_so in refused.items():
        if is_so:
            raise SettingsError(f"accelerate's fsdp_config: {said}")
    return Sharding(asked.reshard_after_forward, frozenset(asked.transformer_cls_names_to_wrap or ()))


def _is_on(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() == "true"


@contextlib.contextmanager
def without_launcher() -> Iterator[None]:
    """Within this, accelerate does not shard, and transformers loads weights in every process, not just the first."""
    switch = os.environ.pop(FSDP_SWITCH, None)
    try:
        yield
    finally:
        if switch is not None:
            os.environ[FSDP_SWITCH] = switch


def add_up(parameters: Sequence[nn.Parameter]) -> None:
    """Sum the gradients of all processes, each of which has its share of one loss.

    It is not for sharded parameters, whose gradients are sums already.
    """
    flat = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in parameters])
    torch.distributed.all_reduce(flat)
    for parameter, grad in zip(parameters, torch.split(flat, [p.numel() for p in parameters]), strict=True):
        parameter.grad = grad.view_as(parameter).clone()  # not a view of the flat one


def whole(tensor: Tensor) -> Tensor:
    """Return a split tensor with the parts of all processes, which must all call this; any other one as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def part(tensor: Tensor) -> Tensor:
    """Return this process's part of a split tensor, in the same memory; any other one as it is."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(tensor: Tensor, model: Tensor) -> Tensor:
    """Return this process's part of the whole tensor, split as `model` is; without a split, the tensor itself."""
    if not isinstance(model, DTensor) or isinstance(tensor, DTensor):
        return tensor
    on_device = tensor.to(model.device)
    return distribute_tensor(on_device, model.device_mesh, model.placements, src_data_rank=None)  # no communication


def keep_states_whole(optimizer: torch.optim.Optimizer) -> None:
    """Have `state_dict` give, and `load_state_dict` take, whole tensors. All processes must call either together."""

    def gathered(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        entries = {i: {k: whole(v) for k, v in entry.items()} for i, entry in state["state"].items()}
        return {**state, "state": entries}

    def split(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        entries = {
            i: {k: like(v, parameters[i]) if v.shape == parameters[i].shape else v for k, v in entry.items()}
            for i, entry in state["state"].items()
        }
        return {**state, "state": entries}

    optimizer.register_state_dict_post_hook(gathered)
    optimizer.register_load_state_dict_pre_hook(split)
