"""vLLM's CPU rejection sampler, repaired: the unit, and the exactness of what it samples.

The six `test_upstream_still_...` tests fail when vLLM no longer needs the repair they name.
"""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import util
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile
from vllm import SamplingParams, _custom_ops  # noqa: F401  the latter loads the C++ operators
from vllm.exceptions import VLLMValidationError
from vllm.lora.layers import LoRAMapping
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
from vllm.platforms import current_platform
from vllm.triton_utils.dispatcher import _registry
from vllm.v1.sample.logits_processor import MinTokensLogitsProcessor, build_logitsprocs
from vllm.v1.sample.logits_processor.state import LogitsProcessors
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.ops import topk_topp_sampler
from vllm.v1.sample.rejection_sampler import RejectionSampler, expand_batch_to_tokens
from vllm.v1.sample.sampler import Sampler
from vllm.v1.spec_decode.metadata import SpecDecodeMetadata
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from slhf_server.engine.repairs import EXPAND, add_adapters, expand, expands
from slhf_server.engine.sampling import EngineParams
from slhf_server.engine.vllm import DRAFT_SPECULATION
from tests.engine.exactness import chi_square_p, exact_probabilities

pytestmark = [
    pytest.mark.engine,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not current_platform.is_cpu(), reason="the repairs are for the CPU backend"),
]
VOCAB = 48
DRAFT = 3
BATCH = 512
STEPS = 80
LENGTHS = [i % 5 % (DRAFT + 1) for i in range(BATCH)]
GREEDY = torch.arange(BATCH) % 8 == 7


@pytest.fixture(scope="module", autouse=True)
def cpu_kernels() -> None:
    """As vLLM's CPU worker registers them."""
    if EXPAND not in _registry:
        current_platform.register_triton_kernel_overrides()


@pytest.mark.parametrize("dtype", [torch.float32, torch.int32, torch.int64])
def test_each_requests_value_is_repeated_for_its_tokens(dtype: torch.dtype) -> None:
    scale = 1 if dtype.is_floating_point else 8
    values = (torch.tensor([0.75, 0.0, 0.5, 0.25]) * scale).to(dtype)
    cu_num_tokens = torch.tensor([2, 2, 3, 6], dtype=torch.int32)
    assert expand_batch_to_tokens(values, cu_num_tokens, 6).equal(values[torch.tensor([0, 0, 2, 3, 3, 3])])
    replaced = expand_batch_to_tokens(torch.zeros(4, dtype=dtype), cu_num_tokens, 6, replace_from=0, replace_to=1)
    assert replaced.dtype == dtype
    assert replaced.equal(torch.ones(6, dtype=dtype))


def unrepaired(module: str) -> ModuleType:
    """A fresh copy of a module of vLLM's."""
    spec = util.find_spec(module)
    assert spec is not None
    assert spec.loader is not None
    copy = util.module_from_spec(spec)
    spec.loader.exec_module(copy)
    return copy


def test_upstream_still_drops_what_it_expands() -> None:
    upstream = unrepaired("vllm.utils.cpu_triton_utils")
    assert not expands(upstream._expand_kernel_impl)
    assert expands(expand)


def test_upstream_still_dies_of_a_step_without_proposals() -> None:
    with pytest.raises(RuntimeError, match="max"):
        topk_topp_sampler.apply_top_k_top_p(torch.empty(0, VOCAB), torch.tensor([], dtype=torch.int32), None)


def test_upstream_still_rewinds_generators() -> None:
    assert "set_offset" in GPUModelRunner._bookkeeping_sync.__code__.co_names
    with pytest.raises(RuntimeError, match="offset"):
        torch.Generator().get_offset()


def test_upstream_still_leaves_min_p_and_logit_bias_out() -> None:
    """Of a speculating engine's processors, and at its front."""
    config = SimpleNamespace(speculative_config=SimpleNamespace(), scheduler_config=SimpleNamespace(max_num_seqs=8))
    built = build_logitsprocs(config, torch.device("cpu"), is_pin_memory=False, is_pooling_model=False)
    assert [type(processor) for processor in built.all] == [MinTokensLogitsProcessor]
    for params in (SamplingParams(min_p=0.1), SamplingParams(logit_bias={1: 1.0})):
        with pytest.raises(VLLMValidationError, match="not yet supported with speculative decoding"):
            params._validate_spec_decode(config.speculative_config)


def test_other_speculation_than_the_repaired_one_still_refuses_them_and_says_what_helps() -> None:
    params = EngineParams(logit_bias={1: 1.0})
    params._validate_spec_decode(None)
    params._validate_spec_decode(SimpleNamespace(**DRAFT_SPECULATION))
    for other in ({"method": "eagle"}, {"num_speculative_tokens_per_batch_size": None}):
        with pytest.raises(VLLMValidationError, match="--speculation off"):
            params._validate_spec_decode(SimpleNamespace(**DRAFT_SPECULATION | other))


def adapted(add: Callable[..., Any], adapters: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """What a layer of two slices adds for tokens with these adapters by `add`; and what it should."""
    torch.manual_seed(0)
    tokens, rank, sizes = len(adapters), 4, (6, 3)
    a = [torch.randn(2, 1, rank, 8) for _ in sizes]
    b = [torch.randn(2, 1, size, rank) for size in sizes]
    x, y = torch.randn(tokens, 8), torch.randn(tokens, sum(sizes))
    wrapper = PunicaWrapperCPU(64, 64, "cpu")
    mapping = LoRAMapping(tuple(n + 1 for n in adapters), tuple(n + 1 for n in adapters), is_prefill=True)
    wrapper.update_metadata(mapping, [1, 2], 2, VOCAB)
    wanted = y.clone()
    for row, adapter in enumerate(adapters):
        if adapter >= 0:
            wanted[row] += torch.cat(
                [x[row] @ a_[adapter, 0].T @ b_[adapter, 0].T for a_, b_ in zip(a, b, strict=True)]
            )
    add(wrapper, y, x, tuple(a), tuple(b), 1.0, sizes)
    return y, wanted


@pytest.mark.parametrize("adapters", [[0] * 5, [1, 1], [-1] * 4, [0, 1, 1, 0], [-1, 0, 0, -1, 1], [1, -1]])
def test_an_adapter_speaks_for_its_own_tokens_alone(adapters: list[int]) -> None:
    assert PunicaWrapperCPU.add_lora_linear is add_adapters
    torch.testing.assert_close(*adapted(PunicaWrapperCPU.add_lora_linear, adapters))


def test_upstream_still_adapts_who_has_no_adapter() -> None:
    upstream = unrepaired("vllm.lora.punica_wrapper.punica_cpu")
    add = upstream.PunicaWrapperCPU.add_lora_linear
    torch.testing.assert_close(*adapted(add, [0, 1, 1, 0]))
    found, wanted = adapted(add, [1, -1])
    torch.testing.assert_close(found[0], wanted[0])
    assert not torch.allclose(found[1], wanted[1])


WIDE = 6000


@contextmanager
def sorting() -> Iterator[list[int]]:
    """How many numbers each sort within has sorted."""
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as seen:
        sizes: list[int] = []
        yield sizes
    sizes += [math.prod(event.input_shapes[0]) for event in seen.events() if event.name == "aten::sort"]


def filtered(upstream: ModuleType, logits: torch.Tensor, filters: list[tuple[float, int]]) -> torch.Tensor:
    """What remains of each row, by a module of vLLM's, of its own top_p and top_k."""
    k = torch.tensor([k for _, k in filters], dtype=torch.int32)
    found: torch.Tensor = upstream.apply_top_k_top_p(logits.clone(), k, torch.tensor([p for p, _ in filters]))
    return found


def test_each_row_keeps_what_its_top_p_and_top_k_leave_and_no_vocabulary_is_sorted() -> None:
    """Rows with both, with one, with none; a nucleus of one token and one of hundreds."""
    torch.manual_seed(3)
    filters = [(0.8, 20), (0.9, WIDE), (1.0, 50), (1.0, WIDE), (0.95, 5), (0.01, WIDE), (0.9, 1), (0.7, WIDE)]
    logits = torch.randn(len(filters), WIDE) * 4
    with sorting() as sizes:
        found = filtered(topk_topp_sampler, logits, filters)
    assert sizes == []
    for row, kept, (top_p, top_k) in zip(logits, found, filters, strict=True):
        due = exact_probabilities(row, 1.0, top_p, top_k)
        assert kept.isfinite().equal(due > 0), (top_p, top_k)
        assert kept[due > 0].equal(row[due > 0])


def test_a_nucleus_of_most_of_the_vocabulary_is_found_too_and_equals_stay_in() -> None:
    """A flat row beside a steep one; and logits of which many are equal, at the edge of top_k."""
    torch.manual_seed(4)
    flat = torch.stack([torch.randn(WIDE) * 0.1, torch.randn(WIDE) * 6])
    found = filtered(topk_topp_sampler, flat, [(0.9, WIDE), (0.9, WIDE)])
    for row, kept in zip(flat, found, strict=True):
        due = exact_probabilities(row, 1.0, 0.9, WIDE)
        differ = kept.isfinite() != (due > 0)
        assert differ.sum() <= 1  # float32's rounding moves the last one
    equal = (torch.randn(4, WIDE) * 4).round()
    equal[:, 100:130] = 40
    filters = [(1.0, 20), (1.0, 50), (0.9999, 20), (1.0, WIDE)]
    due = filtered(unrepaired("vllm.v1.sample.ops.topk_topp_sampler"), equal, filters)
    assert filtered(topk_topp_sampler, equal, filters).isfinite().equal(due.isfinite())
    assert due.isfinite().sum(-1)[0] == 30


def test_upstream_still_sorts_the_vocabulary() -> None:
    with sorting() as sizes:
        filtered(unrepaired("vllm.v1.sample.ops.topk_topp_sampler"), torch.randn(2, WIDE), [(0.9, 20), (0.8, 20)])
    assert 2 * WIDE in sizes


def speculation(draft: list[int]) -> tuple[SpecDecodeMetadata, list[int]]:
    """vLLM's description of a batch whose requests propose 0 to 3 tokens of `draft`; and each logits row's position."""
    targets: list[int] = []
    bonuses: list[int] = []
    positions: list[int] = []
    for length in LENGTHS:
        start = len(positions)
        targets += range(start, start + length)
        bonuses.append(start + length)
        positions += range(length + 1)
    cumulative = torch.tensor(LENGTHS).cumsum(0).int()
    metadata = SpecDecodeMetadata(
        draft_token_ids=torch.tensor([token for n in LENGTHS for token in draft[:n]], dtype=torch.int32),
        num_draft_tokens=LENGTHS,
        cu_num_draft_tokens=cumulative,
        cu_num_sampled_tokens=cumulative + torch.arange(1, BATCH + 1).int(),
        target_logits_indices=torch.tensor(targets),
        bonus_logits_indices=torch.tensor(bonuses),
        logits_indices=torch.arange(len(positions)),
    )
    return metadata, positions


def sampling(temperature: float, top_p: float, top_k: int, seeded: bool) -> SamplingMetadata:
    generators = {i: torch.Generator().manual_seed(i) for i in range(0, BATCH, 2)} if seeded else {}
    no_top_k = torch.full((BATCH,), top_k, dtype=torch.int32).masked_fill(GREEDY, VOCAB)
    return SamplingMetadata(
        temperature=torch.full((BATCH,), temperature).masked_fill(GREEDY, 0),
        all_greedy=False,
        all_random=False,
        top_p=None if top_p == 1 else torch.full((BATCH,), top_p).masked_fill(GREEDY, 1),
        top_k=None if top_k == VOCAB else no_top_k,
        generators=generators,
        max_num_logprobs=None,
        no_penalties=True,
        prompt_token_ids=None,
        frequency_penalties=torch.zeros(BATCH),
        presence_penalties=torch.zeros(BATCH),
        repetition_penalties=torch.ones(BATCH),
        output_token_ids=[[] for _ in range(BATCH)],
        allowed_token_ids_mask=None,
        bad_words_token_ids={},
        logitsprocs=LogitsProcessors(),
    )


@pytest.mark.parametrize("seeded", [False, True])
@pytest.mark.parametrize(
    ("temperature", "top_p", "top_k"),
    [(0.9, 1.0, VOCAB), (0.9, 0.9, VOCAB), (0.9, 0.9, 10), (0.9, 1.0, 10), (1.6, 1.0, VOCAB)],
)
def test_every_position_follows_the_models_distribution_whatever_was_proposed(
    temperature: float, top_p: float, top_k: int, seeded: bool
) -> None:
    """Requests differ in how much they propose (0 to 3 tokens), and every eighth is greedy, as in a mixed batch."""
    torch.manual_seed(7)
    logits = torch.randn(DRAFT + 1, VOCAB) * 2
    ranked = logits.argsort(-1, descending=True)
    draft = [int(ranked[0, 0]), int(ranked[1, 1]), int(ranked[2, 4])]  # likely, less likely, unlikely
    metadata, positions = speculation(draft)
    sampler = RejectionSampler(Sampler())
    settings = sampling(temperature, top_p, top_k, seeded)
    steps = [sampler(metadata, None, logits[positions], settings).sampled_token_ids for _ in range(STEPS)]
    outputs = torch.stack(steps).long()  # (STEPS, BATCH, DRAFT + 1)
    assert_greedy_requests_take_the_best(outputs, logits, draft)

    probs = exact_probabilities(logits, temperature, top_p, top_k)
    lengths = torch.tensor(LENGTHS)
    for position in range(DRAFT + 1):
        for proposed in (True, False):  # a guessed position, or the bonus token after all guesses
            who = ~GREEDY & (lengths > position if proposed else lengths == position)
            taken = outputs[:, who].flatten(0, 1)
            reached = (taken[:, :position] == torch.tensor(draft[:position])).all(-1)
            tokens = taken[reached, position]
            if len(tokens) >= 100:
                assert chi_square_p(torch.bincount(tokens, minlength=VOCAB), probs[position]) > 1e-5, (
                    position,
                    proposed,
                )


def assert_greedy_requests_take_the_best(outputs: torch.Tensor, logits: torch.Tensor, draft: list[int]) -> None:
    """Up to and including the first position at which the draft is not the best token."""
    best = logits.argmax(-1).tolist()
    differs = [position for position in range(DRAFT) if best[position] != draft[position]]
    for request in torch.arange(BATCH)[GREEDY].tolist():
        length = min([LENGTHS[request], *differs]) + 1
        assert outputs[:, request, :length].eq(torch.tensor(best[:length])).all()
