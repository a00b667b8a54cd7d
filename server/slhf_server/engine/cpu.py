"""In which precision a CPU computes, by its instructions (`features`, by the names of torch.cpu.get_capabilities)."""

from collections.abc import Mapping
from typing import Any

import torch
from vllm.platforms import current_platform

from slhf_server.bundles.quantization import WHOLE_RANGE
from slhf_server.settings.server import Settings

SMALL_RANGE = 64
"""The steps of an int8 weight that a CPU without VNNI multiplies exactly (int8.py)."""


def int8_obstacle(settings: Settings) -> str | None:
    """Why this device cannot compute in int8 (bundles/quantization.py), or None."""
    if not current_platform.is_cpu():
        return "it is for CPUs, and this is none; a GPU has --engine quantization=fp8"
    return cpu_obstacle(torch.cpu.get_capabilities(), settings.engine.get("dtype", "auto"))


def cpu_obstacle(features: Mapping[str, Any], dtype: str) -> str | None:
    """Why a CPU with these instructions cannot compute in int8, or None. With AMX, vLLM's kernel knows no float32."""
    if not multiplies_int8(features) and not features.get("avx2"):
        return "this CPU has neither AVX2 nor VNNI nor AMX"
    if features.get("amx_int8") and dtype in ("float32", "float"):
        return "with AMX, engine.dtype cannot be float32"
    return None


def multiplies_int8(features: Mapping[str, Any]) -> bool:
    """Whether the CPU has instructions that add products of int8 in 32 bits; without them oneDNN's sums overflow."""
    return any(features.get(name) for name in ("avx512_vnni", "avx_vnni", "amx_int8"))


def weight_range() -> int:
    """The most steps that a weight in int8 may have on this device."""
    return WHOLE_RANGE if multiplies_int8(torch.cpu.get_capabilities()) else SMALL_RANGE


def dtype_for(features: Mapping[str, Any]) -> str:
    """vLLM's `dtype`: the weights' own, or float32 on x86 without AVX512, where bfloat16 is emulated.

    oneDNN has no products of bfloat16 there, and torch's own are a fifth as fast for sixteen tokens at once.
    """
    return "float32" if features.get("architecture") == "x86_64" and not features.get("avx512_f") else "auto"
