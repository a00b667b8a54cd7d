"""Repairs of vLLM 0.32's CPU backend, loaded into its worker process as `worker_extension_cls`.

vLLM resolves the class in the worker right after it has registered its CPU kernels, so importing this module is the
repair. On other platforms it does nothing. Each part says when it can go: a test named there fails at that time
(tests/engine/test_repairs.py).
"""

from typing import Any

import torch
from vllm.platforms import PlatformEnum, current_platform

from slhf_server.engine.cpu import multiplies_int8

EXPAND = "vllm.v1.sample.rejection_sampler.expand_kernel"


def expand(
    output: torch.Tensor,  # (sum of counts,)
    input_val: torch.Tensor,  # (requests,)
    cu_num_tokens: torch.Tensor,  # (requests,): running sum of counts
    replace_from: int,
    replace_to: int,
    MAX_NUM_TOKENS: int | None = None,
) -> None:
    """Repeat each request's value for its tokens, `replace_from` becoming `replace_to`.

    The parameters stand in the Triton kernel's order: vLLM's dispatcher passes them by position.
    """
    counts = cu_num_tokens.diff(prepend=cu_num_tokens.new_zeros(1))
    values = input_val.masked_fill(input_val == replace_from, replace_to).repeat_interleave(counts)
    output[: len(values)] = values


def expands(kernel: Any) -> bool:
    """Whether a kernel does for floats what `expand` does."""
    output = torch.full((3,), -1.0)
    kernel(output, torch.tensor([0.5, 0.0]), torch.tensor([1, 3], dtype=torch.int32), 0, 1, MAX_NUM_TOKENS=128)
    return output.tolist() == [0.5, 1.0, 1.0]


def repair_expand() -> None:
    """Repair speculation: upstream's result reaches the caller for int64 alone.

    The rejection sampler then divides a sampled request's logits by uninitialised memory (vllm-project/vllm#55005,
    fixed by #55006). The repair can go when `test_upstream_still_drops_what_it_expands` fails.
    """
    from vllm.triton_utils.dispatcher import KernelOverride, register_kernels
    from vllm.utils import cpu_triton_utils
    from vllm.v1.sample import rejection_sampler

    if expands(cpu_triton_utils._expand_kernel_impl):
        return
    cpu_triton_utils._expand_kernel_impl = expand  # for a registration still to come
    if isinstance(rejection_sampler.expand_kernel, KernelOverride):  # for the one already done
        register_kernels({EXPAND: expand})


def repair_no_draft() -> None:
    """Repair speculation: a step in which nothing is proposed goes through the rejection sampler too.

    With top_k and no top_p in the batch it takes the maximum of an empty tensor, and the engine dies. The repair can
    go when `test_upstream_still_dies_of_a_step_without_proposals` fails.
    """
    from vllm.v1.sample.rejection_sampler import RejectionSampler

    original = RejectionSampler.forward

    def forward(self: Any, metadata: Any, draft_probs: Any, logits: torch.Tensor, sampling_metadata: Any) -> Any:
        if len(metadata.draft_token_ids):
            return original(self, metadata, draft_probs, logits, sampling_metadata)
        return self.sampler(logits, sampling_metadata, predict_bonus_token=True)

    RejectionSampler.forward = forward


def repair_seed() -> None:
    """Repair seeds: a seeded request whose prompt is prefilled in several steps kills the engine.

    Upstream rewinds the generator of a sample that it throws away, which a CPU generator cannot do. While the generator
    is hidden in those steps, nothing is drawn from it, so there is nothing to rewind. The repair can go when
    `test_upstream_still_rewinds_generators` fails.
    """
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    original = CPUModelRunner.sample_tokens

    def sample_tokens(self: Any, grammar_output: Any) -> Any:
        batch = self.input_batch
        partial = self.discard_request_mask.np[: batch.num_reqs].nonzero()[0].tolist()
        hidden = {index: batch.generators.pop(index) for index in partial if index in batch.generators}
        try:
            return original(self, grammar_output)
        finally:
            batch.generators.update(hidden)

    CPUModelRunner.sample_tokens = sample_tokens


def repair_processors() -> None:
    """Repair speculation: min_p and logit_bias are left out of what speculating engines apply.

    Guessed tokens are checked without logits processors; the one token of a request without guesses is sampled with
    them. So requests that need the two get no guesses, and the others keep theirs. The parameters that vLLM refuses at
    its front are let through in sampling.py. The repair can go when
    `test_upstream_still_leaves_min_p_and_logit_bias_out` fails.
    """
    from vllm.v1.outputs import DraftTokenIds
    from vllm.v1.sample.logits_processor import LogitBiasLogitsProcessor, LogitsProcessors, MinPLogitsProcessor
    from vllm.v1.worker import gpu_model_runner
    from vllm.v1.worker.cpu_model_runner import CPUModelRunner

    build, take = gpu_model_runner.build_logitsprocs, CPUModelRunner.take_draft_token_ids

    def build_logitsprocs(config: Any, device: torch.device, pinned: bool, *others: Any) -> Any:
        built = build(config, device, pinned, *others)
        if config.speculative_config is None:
            return built
        missing = [made(config, device, pinned) for made in (LogitBiasLogitsProcessor, MinPLogitsProcessor)]
        return LogitsProcessors([*built.all, *missing])

    def take_draft_token_ids(self: Any) -> Any:
        drafts = take(self)
        if drafts is None:
            return None
        unguessed = {name for name, request in self.requests.items() if needs_processors(request.sampling_params)}
        kept = [
            [] if name in unguessed else ids for name, ids in zip(drafts.req_ids, drafts.draft_token_ids, strict=True)
        ]
        return DraftTokenIds(drafts.req_ids, kept)

    gpu_model_runner.build_logitsprocs = build_logitsprocs
    CPUModelRunner.take_draft_token_ids = take_draft_token_ids


def needs_processors(params: Any) -> bool:
    """Whether a request needs a logits processor that speculation leaves out."""
    return bool(params.min_p or params.logit_bias)


NUCLEUS = 1024
"""Tokens that are looked at first: at ordinary temperatures they hold the nucleus of top_p."""


def keep_top(
    logits: torch.Tensor,  # (rows, vocabulary), changed in place
    k: torch.Tensor | None,  # (rows,)
    p: torch.Tensor | None,  # (rows,)
    allow_cpu_sync: bool = False,
) -> torch.Tensor:
    """Replaces `apply_top_k_top_p_pytorch`: -inf for all that top_k and top_p leave out, top_k first."""
    from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_only

    if k is not None:
        logits = apply_top_k_only(logits, k)
    if p is None:
        return logits
    rows = (p < 1).nonzero()[:, 0]
    for size in (NUCLEUS, logits.shape[1]):
        best, places = logits[rows].topk(min(size, logits.shape[1]))
        probs = (best - logits[rows].logsumexp(-1, keepdim=True)).exp()
        outside = probs.cumsum(-1) - probs >= p[rows, None]
        outside[:, 0] = False
        found = outside[:, -1] if size == NUCLEUS else torch.ones_like(rows, dtype=torch.bool)
        nothing = torch.full_like(logits[rows[found]], -torch.inf)
        logits[rows[found]] = nothing.scatter_(-1, places[found], best[found].masked_fill(outside[found], -torch.inf))
        rows = rows[~found]
        if not len(rows):
            break
    return logits


def repair_top_p() -> None:
    """Repair top_p: it sorts the whole vocabulary for every token, guessed ones included.

    With Qwen's 152,000 tokens that is 14 ms each on a core: eight requests, or one that guesses five tokens, then wait
    longer for the sampler than for the model. The repair can go when `test_upstream_still_sorts_the_vocabulary` fails.
    """
    from vllm.v1.sample.ops import topk_topp_sampler

    topk_topp_sampler.apply_top_k_top_p_pytorch = keep_top


def add_adapters(
    self: Any,
    y: torch.Tensor,  # (tokens, outputs), added to in place
    x: torch.Tensor,  # (tokens, inputs)
    lora_a_stacked: tuple[torch.Tensor, ...],  # each (adapters, 1, rank, inputs)
    lora_b_stacked: tuple[torch.Tensor, ...],  # each (adapters, 1, outputs of its slice, rank)
    scale: float,
    output_slices: tuple[int, ...],
    **_: Any,
) -> None:
    """Replaces `PunicaWrapperCPU.add_lora_linear`: every adapter multiplies its own tokens at once."""
    for adapter, rows in self.rows_by_adapter.items():
        inputs, start = x[rows], 0
        for a, b, size in zip(lora_a_stacked, lora_b_stacked, output_slices, strict=True):
            y[rows, start : start + size] += inputs @ a[adapter, 0].T @ b[adapter, 0].T * scale
            start += size


def rows_by_adapter(adapters: torch.Tensor) -> dict[int, slice | torch.Tensor]:
    """The rows of each adapter's tokens, from one adapter index per token; -1 is no adapter."""
    found: dict[int, slice | torch.Tensor] = {}
    for adapter in set(adapters.tolist()) - {-1}:
        rows = (adapters == adapter).nonzero()[:, 0]
        found[adapter] = slice(len(rows)) if len(rows) == len(adapters) else rows
    return found


def repair_adapters() -> None:
    """Repair adapters: a token without one gets the last one's, and an adapter costs three quarters of the speed.

    Upstream copies an adapter's matrices once for every token, and takes -1, which means none, for a place to copy from
    wherever a batch holds both (vllm-project/vllm#48421). The repair can go when
    `test_upstream_still_adapts_who_has_no_adapter` fails and adapters have become fast.
    """
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

    update = PunicaWrapperCPU._update_prefill_metadata

    def update_metadata(self: Any, token_lora_tensor: torch.Tensor) -> None:
        update(self, token_lora_tensor)
        self.rows_by_adapter = rows_by_adapter(token_lora_tensor)

    PunicaWrapperCPU._update_prefill_metadata = update_metadata
    PunicaWrapperCPU.add_lora_linear = add_adapters


def repair_int8() -> None:
    """Repair int8 on x86 without VNNI: oneDNN's sums overflow, and it is slower than float32 (int8.py has a kernel).

    The repair can go when `test_without_vnni_upstreams_sums_still_overflow` fails and the kernel has become fast.
    """
    from vllm.model_executor.kernels.linear import register_linear_kernel
    from vllm.model_executor.kernels.linear.scaled_mm.cpu import CPUInt8ScaledMMLinearKernel

    from slhf_server.engine.int8 import FbgemmLinearKernel

    features = torch.cpu.get_capabilities()
    if multiplies_int8(features) or not features.get("avx2"):
        return

    def is_supported(compute_capability: int | None = None) -> tuple[bool, str | None]:
        return False, "without VNNI its sums overflow."

    CPUInt8ScaledMMLinearKernel.is_supported = staticmethod(is_supported)
    register_linear_kernel(FbgemmLinearKernel, PlatformEnum.CPU, "int8")


if current_platform.is_cpu():
    repair_expand()
    repair_no_draft()
    repair_seed()
    repair_processors()
    repair_top_p()
    repair_adapters()
    repair_int8()


class CpuRepairs:
    """Empty on purpose: vLLM mixes it into its worker, and importing this module applies the repairs."""
