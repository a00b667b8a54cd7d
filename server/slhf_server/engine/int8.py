"""int8 (W8A8) on x86 CPUs without VNNI: vLLM's Linear layers by FBGEMM, which torch has.

On such CPUs oneDNN, which vLLM's own kernel asks, adds pairs of products in 16 bits that overflow, and is slower than
float32. FBGEMM adds in 16 bits too, but there weights of at most 64 steps are exact: a pair is at most 2 x 255 x 64,
less than 2^15. bundles/quantization.py rounds to that range where the server runs on such a CPU.

torch 2.13 says that a later release will have no quantised tensors (pytorch/pytorch#184982), which are the only way to
FBGEMM's packed weights. When it has none, such CPUs have to compute in float32 until there is another kernel.
"""

import warnings
from itertools import count
from typing import Any
from weakref import WeakValueDictionary

import torch
from vllm.model_executor.kernels.linear.scaled_mm.ScaledMMLinearKernel import (
    Int8ScaledMMLinearKernel,
    Int8ScaledMMLinearLayerConfig,
)
from vllm.utils.torch_utils import direct_register_custom_op

from slhf_server.engine.cpu import SMALL_RANGE

_ENGINE = "fbgemm"


class FbgemmLinearKernel(Int8ScaledMMLinearKernel):  # type: ignore[misc]  # vLLM has no types
    """Each output channel of the weights has a scale, and each token's activations have one as they come."""

    @classmethod
    def is_supported(cls, compute_capability: int | None = None) -> tuple[bool, str | None]:
        if _ENGINE not in torch.backends.quantized.supported_engines:
            return False, "this build of torch has no FBGEMM."
        return True, None

    @classmethod
    def can_implement(cls, c: Int8ScaledMMLinearLayerConfig) -> tuple[bool, str | None]:
        if c.is_static_input_scheme or not c.input_symmetric or not c.is_channelwise:
            return False, "it takes a scale for each channel, and for each token as it comes, without zero points."
        return True, None

    def process_weights_after_loading(self, layer: torch.nn.Module) -> None:
        name, scale_name, *_ = self.layer_param_names
        weight = getattr(layer, name)
        self.parts = packed(weight, getattr(layer, scale_name))
        self._outputs, self._number = len(weight), next(_NUMBERS)
        _KERNELS[self._number] = self
        setattr(layer, name, None)  # FBGEMM has its own copy

    def apply_weights(self, layer: torch.nn.Module, x: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
        out: torch.Tensor = torch.ops.vllm.slhf_int8_linear(x.reshape(-1, x.shape[-1]), self._number, self._outputs)
        return (out if bias is None else out.add_(bias)).reshape(*x.shape[:-1], self._outputs)


# A model that is compiled (`enforce_eager: false`) may hold operators on tensors and numbers, and no packed weights.
_NUMBERS = count()
_KERNELS: WeakValueDictionary[int, FbgemmLinearKernel] = WeakValueDictionary()


def _linear(x: torch.Tensor, number: int, outputs: int) -> torch.Tensor:
    return multiplied(x, _KERNELS[number].parts).to(x.dtype)


def _shape(x: torch.Tensor, number: int, outputs: int) -> torch.Tensor:
    return x.new_empty((x.shape[0], outputs))


direct_register_custom_op("slhf_int8_linear", _linear, fake_impl=_shape)


def packed(weight: torch.Tensor, scale: torch.Tensor) -> list[Any]:
    """FBGEMM's form of int8 weights (N, K) with scales (N, 1); two summands where one could overflow."""
    least, most = (int(bound) for bound in weight.aminmax())
    parts = [weight] if max(-least, most) <= SMALL_RANGE else [weight // 2, weight - weight // 2]
    scales, zeros = scale.flatten().double(), torch.zeros(len(scale), dtype=torch.long)
    torch.backends.quantized.engine = _ENGINE
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*quantized tensor creation functions", category=UserWarning)
        quantised = [torch._make_per_channel_quantized_tensor(part.contiguous(), scales, zeros, 0) for part in parts]
    return [torch.ops.quantized.linear_prepack(part, None) for part in quantised]


def multiplied(x: torch.Tensor, parts: list[Any]) -> torch.Tensor:
    """Tokens (M, K) times the layer's weights: (M, N) float32. A token's result does not depend on the others."""
    wide = x.float()
    scale = (wide.abs().amax(-1, keepdim=True) / 127).clamp_(min=torch.finfo(torch.float32).tiny)
    steps = (wide / scale).round_()  # FBGEMM rounds what it has added its zero point to, so a half may go either way
    first: torch.Tensor
    first, *others = (  # a scale of 1, and 128 for the zero point, since its activations are unsigned
        torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(steps, 1.0, 128, part) for part in parts
    )
    for other in others:
        first += other
    return first.mul_(scale)
