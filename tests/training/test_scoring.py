"""Log-probs of answers: a prompt that they share is read once, and the numbers are the same."""

from typing import Any

import pytest
import torch
from torch import Tensor

from slhf_training.models import scoring
from slhf_training.models.scoring import Reading, answer_log_probs, attention_bias, tables
from slhf_training.types import Ids
from tests.training import tiny

PROMPT: Ids = (9, 4, 8, 10)
ANSWERS: list[Ids] = [(1, 2, 8), (3,), (8, 8), (5, 6, 7, 1, 8)]
CPU = torch.device("cpu")


class Counting:
    """Counts the tokens that the model reads."""

    def __init__(self, model: Any) -> None:
        self._model, self.tokens = model, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, **arguments: Any) -> Any:
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
