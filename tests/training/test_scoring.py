"""Log-probs of answers: a prompt that they share is read once, and the numbers are the same."""

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GraniteConfig, GraniteForCausalLM, LlamaForCausalLM

from slhf_training.models import scoring
from slhf_training.models.scoring import Reading, answer_log_probs, answer_logits, attention_bias, tables
from slhf_training.types import Ids
from tests.training import tiny

PROMPT: Ids = (9, 4, 8, 10)
ANSWERS: list[Ids] = [(1, 2, 8), (3,), (8, 8), (5, 6, 7, 1, 8)]
CPU = torch.device("cpu")


class Counting:
    """Counts the tokens that the model reads, but for those that try its head."""

    def __init__(self, model: Any) -> None:
        self._model, self.tokens = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **arguments: Any) -> Any:
        if "logits_to_keep" in arguments:
            self.tokens += arguments["input_ids"].numel()
        return self._model(**arguments)


def scored(model: Any, prompts: list[Ids]) -> tuple[Tensor, Tensor]:
    """(answers' tokens,) log-probs, and the gradient of a sum of them with unlike weights."""
    model.zero_grad()
    rows = answer_log_probs(model, prompts, ANSWERS, 0.7, CPU)
    found = torch.cat([row[: len(answer)] for row, answer in zip(rows, ANSWERS, strict=True)])
    (found * torch.arange(1, len(found) + 1)).sum().backward()  # type: ignore[no-untyped-call]
    return found.detach(), torch.cat([p.grad.flatten() for p in model.parameters()])


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_answers_to_one_prompt_get_what_each_gets_alone(attention: str) -> None:
    model = tiny.model()
    model.set_attn_implementation(attention)
    counted = Counting(model)
    together, gradient = scored(counted, [PROMPT] * len(ANSWERS))
    assert counted.tokens == len(PROMPT) + sum(map(len, ANSWERS))
    alone = [answer_log_probs(model, [PROMPT], [answer], 0.7, CPU)[0] for answer in ANSWERS]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    model.zero_grad()
    (torch.cat(alone) * torch.arange(1, len(together) + 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(gradient, torch.cat([p.grad.flatten() for p in model.parameters()]), atol=1e-4)


def test_an_attention_that_slides_reads_each_answer_alone() -> None:
    model = tiny.model()
    model.config.layer_types = ["full_attention", "sliding_attention"]
    counted = Counting(model)
    scored(counted, [PROMPT] * len(ANSWERS))
    assert counted.tokens == len(ANSWERS) * (len(PROMPT) + max(map(len, ANSWERS)))


def test_a_row_does_not_grow_without_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    together, _ = scored(tiny.model(), [PROMPT] * len(ANSWERS))
    monkeypatch.setattr(scoring, "LONGEST_ROW", 8)
    counted = Counting(tiny.model())
    apart, _ = scored(counted, [PROMPT] * len(ANSWERS))
    assert counted.tokens == 3 * (len(PROMPT) + 5)  # three rows of at most 8 tokens, but for one answer that is longer
    assert torch.allclose(apart, together, atol=1e-5)


def test_several_prompts_are_each_read_once() -> None:
    counted = Counting(tiny.model())
    other: Ids = (9, 4, 5, 6, 7, 8, 10)
    prompts = [PROMPT, other, PROMPT, other]
    together, gradient = scored(counted, prompts)
    assert counted.tokens == 2 * (len(other) + 1 + 5)  # two rows; the longer prompt, and its answers
    alone = [answer_log_probs(counted, [p], [a], 0.7, CPU)[0] for p, a in zip(prompts, ANSWERS, strict=True)]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)
    counted.zero_grad()
    (torch.cat(alone) * torch.arange(1, len(together) + 1)).sum().backward()  # type: ignore[no-untyped-call]
    assert torch.allclose(gradient, torch.cat([p.grad.flatten() for p in counted.parameters()]), atol=1e-4)


def test_batches_keep_a_prompts_answers_together_and_like_lengths_beside_each_other() -> None:
    long, short, middle, single = (1,) * 9, (1,) * 3, (1,) * 5, (2,) * 4
    prompts: list[Ids] = [long, short, long, middle, short, short, short, single]
    gpu = torch.device("cuda")
    assert scoring.together(prompts, [1] * 8, 3, gpu) == [[6], [1, 4, 5], [7, 3], [0, 2]]
    assert scoring.together(prompts, [1] * 8, 8, gpu) == [[1, 4, 5, 6, 7, 3, 0, 2]]
    assert scoring.together(prompts, [1] * 8, 8, CPU) == [[1, 4, 5, 6], [0, 2], [7, 3]]


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes how many numbers the largest tensor has that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = func(*args, **(kwargs or {}))
        for one in found if isinstance(found, tuple | list) else [found]:
            self.numel = max(self.numel, one.numel() if isinstance(one, Tensor) else 0)
        return found


@pytest.mark.parametrize("prompts", [[PROMPT] * 4, [PROMPT, PROMPT[:2], PROMPT[:3], PROMPT]])
def test_there_are_never_all_logits_at_once(prompts: list[Ids], monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for the gradient either; the numbers are those of all logits at once."""
    words = 2_000
    model = LlamaForCausalLM(tiny.config(words, tiny.END, hidden_size=8, initializer_range=0.1))
    monkeypatch.setitem(scoring.MOST_LOGITS, "cpu", 3 * words)
    found = scored(model, prompts)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        answer_log_probs(model, prompts, ANSWERS, 0.7, CPU).sum().backward()  # type: ignore[no-untyped-call]
    assert largest.numel <= max(3 * words, max(p.numel() for p in model.parameters()))
    model.zero_grad()
    logits = answer_logits(model, prompts, ANSWERS, CPU)
    assert logits.numel() > largest.numel
    rows = zip((logits / 0.7).log_softmax(dim=-1), ANSWERS, strict=True)
    expected = torch.cat([row[range(len(answer)), answer] for row, answer in rows])
    (expected * torch.arange(1, len(expected) + 1)).sum().backward()  # type: ignore[no-untyped-call]
    gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
    torch.testing.assert_close(found, (expected.detach(), gradient), rtol=1e-5, atol=1e-5)


def test_a_model_that_scales_what_its_head_says_is_asked_for_logits() -> None:
    config = GraniteConfig(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        logits_scaling=8.0,
    )
    model = GraniteForCausalLM(config).eval()
    (found,) = answer_log_probs(model, [PROMPT], [ANSWERS[0]], 0.7, CPU)
    logits = model(input_ids=torch.tensor([PROMPT + ANSWERS[0]])).logits[0, len(PROMPT) - 1 : -1] / 0.7
    expected = logits.log_softmax(dim=-1).gather(1, torch.tensor(ANSWERS[0])[:, None])[:, 0]
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_is_not_seen_is_never_minus_infinity(dtype: torch.dtype) -> None:
    """Not in bfloat16 either, which autocast makes of a float32 mask: padding before a chat would be a row of it."""
    readings = [Reading(PROMPT, (ANSWERS[0],)), Reading(PROMPT[:2], (ANSWERS[1],))]
    _, _, segments = tables(readings, chats_end=len(PROMPT))
    bias = attention_bias(segments, dtype)
    read = bias if dtype == torch.float16 else bias.to(torch.bfloat16)
    assert bool(torch.isfinite(read).all())
    assert bool((bias[1, 0, 2:4, :2] < -1e4).all())
    assert bias[1, 0, 2, 2] == 0
