"""int8 on a CPU: the kernel is exact and blind to its batch, so what the engine says is what rounding explains.

The model is the built-in one of 135M parameters, in which rounding weighs more than in any that `auto` rounds.
"""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from vllm import _custom_ops as ops
from vllm.lora.layers.utils import _get_lora_device
from vllm.model_executor.kernels.linear import CPUInt8ScaledMMLinearKernel, init_int8_linear_kernel
from vllm.model_executor.kernels.linear.scaled_mm import Int8ScaledMMLinearLayerConfig

from slhf import Client
from slhf_server.bundles.quantization import quantized, rounded
from slhf_server.engine.cpu import cpu_obstacle, dtype_for, int8_obstacle, multiplies_int8, weight_range
from slhf_server.engine.int8 import FbgemmLinearKernel, multiplied, packed
from slhf_server.engine.vllm import engine_arguments
from slhf_server.loading.opening import open_bundle
from slhf_server.models.base import SamplingParams
from slhf_server.settings.server import Settings
from tests.engine.conftest import ExactEngine, exact_engine, live_server
from tests.engine.test_speculation import (
    DRAFT,
    FILTERS,
    REPEATED,
    SAMPLES,
    TOKENS,
    VOCAB,
    Reference,
    assert_distributed,
    guesses,
    refining,
)

INT8 = Settings(bundle="builtin:smollm2-135m", cpu_quantization="int8", engine={"dtype": "float32"})
pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(900),
    pytest.mark.skipif(int8_obstacle(INT8) is not None, reason=f"no int8 here: {int8_obstacle(INT8)}"),
]
# The engine guesses nothing for requests with a logit_bias (repairs.py). Token 0 ends texts, and no chat's answer.
UNGUESSED: dict[str, Any] = {"logit_bias": {"0": -100}}


@pytest.fixture(scope="module")
def int8() -> Iterator[ExactEngine]:
    with exact_engine(cpu_quantization="int8") as engine:
        yield engine


Multiply = Callable[[torch.Tensor], torch.Tensor]
VNNI = multiplies_int8(torch.cpu.get_capabilities())


def by_onednn(inputs: int, outputs: int, largest: int, dtype: torch.dtype) -> tuple[Multiply, torch.Tensor]:
    """A random layer by vLLM's kernel, as its CPUInt8ScaledMMLinearKernel calls it; and the weights it stands for."""
    torch.manual_seed(inputs)
    weight, scale = rounded(torch.randn(outputs, inputs), largest)
    handler = ops.create_onednn_scaled_mm(weight.t(), scale, dtype, True, False, 32)

    def multiply(x: torch.Tensor) -> torch.Tensor:
        assert len(scale) == outputs  # it lives as long as this function: the handler keeps a bare pointer to it
        steps, scales, _ = ops.onednn_scaled_int8_quant(x, None, None, True)
        out = torch.empty((len(x), outputs), dtype=dtype)
        ops.onednn_scaled_mm(handler, steps, out, scales, None, torch.zeros(1, outputs), None)
        return out

    return multiply, weight.double() * scale.double()


def by_fbgemm(inputs: int, outputs: int, largest: int, dtype: torch.dtype) -> tuple[Multiply, torch.Tensor]:
    """The same by our kernel, as vLLM calls it."""
    torch.manual_seed(inputs)
    weight, scale = rounded(torch.randn(outputs, inputs), largest)
    names = ["weight", "weight_scale", "input_scale", "input_zero_point", "azp_adj"]
    module: Any = torch.nn.Module()
    module.weight, module.weight_scale = (torch.nn.Parameter(one, requires_grad=False) for one in (weight, scale))
    kernel = FbgemmLinearKernel(DYNAMIC, names)
    kernel.process_weights_after_loading(module)
    assert module.weight is None
    return lambda x: kernel.apply_weights(module, x), weight.double() * scale.double()


DYNAMIC = Int8ScaledMMLinearLayerConfig(is_channelwise=True, is_static_input_scheme=False, input_symmetric=True)
SHAPES = [(576, 1536), (1536, 2048), (8960, 192), (33, 17)]
KERNELS = [
    pytest.param(by_onednn, 127, marks=pytest.mark.skipif(not VNNI, reason="oneDNN is exact with VNNI alone")),
    pytest.param(by_fbgemm, 64),
    pytest.param(by_fbgemm, 127),  # a bundle that others have rounded
]
FBGEMM = pytest.mark.skipif("fbgemm" not in torch.backends.quantized.supported_engines, reason="no FBGEMM here")


@FBGEMM
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("kernel", "largest"), KERNELS)
@pytest.mark.parametrize(("inputs", "outputs"), SHAPES)
def test_the_kernel_multiplies_exactly_and_the_same_in_a_batch_of_any_size(
    inputs: int, outputs: int, kernel: Any, largest: int, dtype: torch.dtype
) -> None:
    """Of a token's activations the largest is 127 steps; nothing else of the batch has a part in that."""
    multiply, weights = kernel(inputs, outputs, largest, dtype)
    x = (torch.randn(65, inputs) * 3).to(dtype)
    whole = multiply(x)
    assert whole.dtype == dtype
    scale = x.float().abs().amax(-1, keepdim=True) / 127
    due = (x.float() / scale).round().double() * scale.double() @ weights.T
    allowed = 1e-5 if dtype == torch.float32 else 1e-2
    assert float((whole.double() - due).norm() / due.norm()) < allowed
    for rows in (1, 2, 3, 5, 6, 8, 16, 31, 64):
        assert multiply(x[:rows].contiguous()).equal(whole[:rows]), rows
        assert multiply(x[-rows:].contiguous()).equal(whole[-rows:]), rows


@FBGEMM
@pytest.mark.parametrize("largest", [64, 127, -128])
def test_the_largest_sums_do_not_overflow_in_our_kernel(largest: int) -> None:
    """Every activation and every weight at its bound, where a pair of products is the largest there is."""
    weight = torch.full((3, 64), largest, dtype=torch.int8)
    out = multiplied(torch.tensor([[1.0] * 64, [-1.0] * 64]), packed(weight, torch.ones(3, 1)))
    assert torch.allclose(out, torch.tensor([[64.0 * largest] * 3, [-64.0 * largest] * 3]), rtol=1e-6)


@FBGEMM
def test_our_kernel_adds_a_bias_and_keeps_the_shape_and_leaves_zeros_alone() -> None:
    x = torch.zeros(2, 3, 64)
    x[0, 0] = 1
    module: Any = torch.nn.Module()
    module.weight = torch.nn.Parameter(torch.ones(5, 64, dtype=torch.int8), requires_grad=False)
    module.weight_scale = torch.nn.Parameter(torch.full((5, 1), 0.5), requires_grad=False)
    kernel = FbgemmLinearKernel(DYNAMIC, ["weight", "weight_scale", "input_scale", "input_zero_point", "azp_adj"])
    kernel.process_weights_after_loading(module)
    out = kernel.apply_weights(module, x, torch.arange(5.0))
    due = torch.arange(5.0).expand(2, 3, 5).clone()
    due[0, 0] += 32
    assert torch.allclose(out, due)
    assert kernel.apply_weights(module, x[:0]).shape == (0, 3, 5)


@FBGEMM
def test_our_kernel_can_be_compiled_and_says_the_same_then() -> None:
    """As with `enforce_eager: false`: in one graph, without a break."""
    multiply, _ = by_fbgemm(64, 48, 64, torch.float32)
    x = torch.randn(5, 64)
    compiled = torch.compile(multiply, fullgraph=True, backend="aot_eager", dynamic=True)
    assert compiled(x).equal(multiply(x))
    assert compiled(x[:3]).equal(multiply(x[:3]))


@FBGEMM
@pytest.mark.parametrize("change", ["is_static_input_scheme", "input_symmetric", "is_channelwise"])
def test_our_kernel_refuses_schemes_that_it_does_not_compute(change: str) -> None:
    able, why = FbgemmLinearKernel.can_implement(replace(DYNAMIC, **{change: not getattr(DYNAMIC, change)}))
    assert not able
    assert why is not None
    assert FbgemmLinearKernel.can_implement(DYNAMIC)[0]


def test_vllm_picks_the_kernel_that_is_exact_on_this_cpu() -> None:
    """By vLLM's own choice, which the repairs that its worker loads have a part in."""
    import slhf_server.engine.repairs  # noqa: F401

    kernel = init_int8_linear_kernel(
        is_channelwise=True, is_static_input_scheme=False, input_symmetric=True, module_name="test"
    )
    assert type(kernel) is (CPUInt8ScaledMMLinearKernel if VNNI else FbgemmLinearKernel)


WITHOUT_VNNI = """
import torch
from vllm.platforms import current_platform
current_platform.import_kernels()
from tests.engine.test_int8 import by_onednn
multiply, weights = by_onednn(576, 1536, 127, torch.float32)
x = torch.randn(8, 576)
scale = x.double().abs().amax(-1, keepdim=True) / 127
due = (x.double() / scale).round() * scale @ weights.T
print("off by", float((multiply(x).double() - due).norm() / due.norm()))
"""


def test_without_vnni_upstreams_sums_still_overflow() -> None:
    """When this fails, such CPUs may have the whole range, and the repair may go (`repair_int8`)."""
    told = subprocess.run(
        [sys.executable, "-c", WITHOUT_VNNI],
        env=os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    found = re.search(r"off by (\S+)", told.stdout)
    assert found is not None
    assert float(found[1]) > 0.01


@pytest.mark.parametrize(
    ("features", "dtype", "obstacle"),
    [
        ({"avx512_f": True, "avx512_vnni": True}, "float32", None),
        ({"avx2": True, "avx_vnni": True}, "auto", None),
        ({"avx512_vnni": True, "amx_int8": True}, "bfloat16", None),
        ({"avx512_vnni": True, "amx_int8": True}, "float32", "engine.dtype"),
        ({"avx512_f": True, "avx2": True, "avx512_vnni": False}, "auto", None),
        ({"avx2": True}, "float32", None),
        ({"neon": True, "dot": True, "architecture": "aarch64"}, "auto", "VNNI"),
        ({}, "auto", "VNNI"),
    ],
)
def test_which_cpus_compute_in_int8(features: dict[str, bool], dtype: str, obstacle: str | None) -> None:
    found = cpu_obstacle(features, dtype)
    assert found is None if obstacle is None else found is not None and obstacle in found


@pytest.mark.parametrize(
    ("features", "dtype"),
    [
        ({"architecture": "x86_64", "avx2": True, "avx512_f": False}, "float32"),
        ({"architecture": "x86_64", "avx2": True, "avx512_f": True}, "auto"),
        ({"architecture": "aarch64", "neon": True}, "auto"),
    ],
)
def test_a_cpu_that_emulates_bfloat16_computes_in_float32(features: dict[str, Any], dtype: str) -> None:
    assert dtype_for(features) == dtype


def test_an_operators_own_dtype_wins() -> None:
    settings = Settings(bundle="builtin:smollm2-135m", engine={"dtype": "bfloat16"})
    bundle = open_bundle(settings)
    assert engine_arguments(bundle, settings)["dtype"] == "bfloat16"
    plain = engine_arguments(bundle, Settings(bundle="builtin:smollm2-135m"))
    assert plain["dtype"] == dtype_for(torch.cpu.get_capabilities())


@pytest.mark.skipif(torch.cpu._is_amx_tile_supported(), reason="of the kernel without AMX")
def test_upstream_still_cannot_put_adapters_on_int8_layers() -> None:
    """When this fails, bundles that keep adapters may be rounded too (quantization.py)."""
    names = ["weight", "weight_scale", "input_scale", "input_zero_point", "azp_adj"]
    found: Any = torch.nn.Module()
    found.logical_widths = [16]
    weight, scale = rounded(torch.randn(16, 32))
    found.weight = torch.nn.Parameter(weight, requires_grad=False)
    found.weight_scale = torch.nn.Parameter(scale, requires_grad=False)
    found.input_scale = found.input_zero_point = found.azp_adj = None
    kernel = CPUInt8ScaledMMLinearKernel if VNNI else FbgemmLinearKernel
    kernel(DYNAMIC, names).process_weights_after_loading(found)
    with pytest.raises(AttributeError, match="device"):
        _get_lora_device(found)


def test_a_gpus_own_quantization_reaches_vllm() -> None:
    settings = Settings(bundle="builtin:smollm2-135m", engine={"quantization": "fp8"})
    bundle = open_bundle(settings)
    assert quantized(bundle, settings, "it is for CPUs") is bundle
    assert engine_arguments(bundle, settings)["quantization"] == "fp8"


class Simulated(torch.nn.Module):
    """A Linear layer in int8, written independently of vLLM: each token rounded by its own scale."""

    def __init__(self, weight: torch.Tensor, scale: torch.Tensor) -> None:
        super().__init__()
        self.weight = weight.float() * scale

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-30) / 127
        return (x / scale).round() * scale @ self.weight.T


@pytest.fixture(scope="module")
def plain(builtin: Path) -> Reference:
    return Reference(builtin)


@pytest.fixture(scope="module")
def simulated(builtin: Path) -> Reference:
    """The model of the files that the engine reads, in transformers."""
    weights = quantized(open_bundle(INT8), INT8, obstacle=None, largest=weight_range()).weights
    stored = load_file(weights / "model.safetensors")
    reference = Reference(builtin)
    for name in [name for name, _ in reference.model.named_modules()]:
        if f"{name}.weight_scale" in stored:
            parent, child = name.rsplit(".", 1)
            linear = Simulated(stored[f"{name}.weight"], stored[f"{name}.weight_scale"])
            setattr(reference.model.get_submodule(parent), child, linear)
    return reference


def test_at_temperature_zero_guesses_change_no_token(int8: ExactEngine) -> None:
    sampling = SamplingParams(temperature=0, max_tokens=32)
    guessed = [int8.complete(refining(draft), sampling) for draft in REPEATED]
    alone = [int8.complete(refining(draft), replace(sampling, **UNGUESSED)) for draft in REPEATED]
    assert sum(chunk.accepted_tokens for chunk in guessed) > 20
    assert guesses(alone) == 0
    assert [chunk.token_ids for chunk in guessed] == [chunk.token_ids for chunk in alone]


@pytest.mark.parametrize(("top_p", "top_k"), FILTERS)
def test_sampled_tokens_follow_the_distribution_of_the_rounded_model(
    int8: ExactEngine, simulated: Reference, top_p: float, top_k: int
) -> None:
    sampling = SamplingParams(temperature=0.9, top_p=top_p, top_k=top_k % VOCAB, max_tokens=TOKENS)
    chunks = int8.completions([(refining(DRAFT), sampling)] * SAMPLES)
    assert guesses(chunks) > SAMPLES
    assert_distributed(chunks, simulated, sampling)


def test_what_the_engine_says_is_off_by_no_more_than_rounding_explains(
    int8: ExactEngine, simulated: Reference, plain: Reference
) -> None:
    """Nats, over the tokens of greedy answers: KL of the rounded model to its base, and the engine's distance to it.

    A distance of none is not to be had: floats that differ in their last bits are rounded to other steps, and the same
    rounded model in float64 is half as far from itself as from its base.
    """
    sampling = SamplingParams(temperature=0, max_tokens=24, logprobs=1)
    divergences, from_simulated, by_rounding = [], [], []
    for draft in REPEATED:
        chunk = int8.complete(refining(draft), sampling)
        ids = list(chunk.token_ids or ())
        due, rounded_ = (model.logits(refining(draft), ids)[: len(ids)].log_softmax(-1) for model in (plain, simulated))
        divergences.append((due.exp() * (due - rounded_)).sum(-1))
        said = torch.tensor([entry.logprob for entry in chunk.logprobs])
        from_simulated.append((said - rounded_[range(len(ids)), ids]).abs())
        by_rounding.append((rounded_ - due)[range(len(ids)), ids].abs())
    assert torch.cat(divergences).mean() < 0.05
    assert torch.cat(from_simulated).mean() < torch.cat(by_rounding).mean()


def test_a_server_in_int8_says_so_and_both_roles_talk_sense_and_share_the_prefix(tmp_path: Path) -> None:
    flags = ["--bundle", "builtin:smollm2-135m", "--cpu-quantization", "int8"]
    with live_server(tmp_path, *flags) as server, Client(server.url, timeout=300) as client:
        assert "int8 (W8A8), made from" in server.log.read_text()
        result = client.refine("What is the capital of France?", rounds=1, max_tokens=48, temperature=0.0)
    draft, refined = result.refinement.rounds
    cached = result.refinement.usage.rounds[0].prompt_tokens_details.cached_tokens
    assert "Paris" in draft.text
    assert "Paris" in refined.text
    assert cached >= 32
