"""What a learner keeps for the gradient, and that keeping less of it changes no gradient."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.learning import AllLogits
from slhf_training.fit.algorithms import Completion, Episode
from slhf_training.fit.learner import Learner
from slhf_training.fit.step import Clock
from slhf_training.models import scoring
from slhf_training.models.prompts import Prompts
from slhf_training.types import ROLES, Sample
from tests.training import tiny
from tests.training.test_trainer import fewer_as

ANSWERS = ((1, 2, 3, 8), (2, 8), (3, 1, 8), (4, 5, 6, 7, 1, 2))


def learnt(directory: Path, kind: type[Learner], weights: str, autocast: str) -> tuple[list[Tensor], int]:
    """The gradients of both roles' answers, and the bytes that are kept for them, each storage once."""
    settings = tiny.settings(directory, weights=weights, optimisation={"autocast": autocast, "micro_batch_size": 4})
    roles = tiny.trainer(settings, fewer_as).roles
    torch.manual_seed(1)
    for parameters in roles.trained.values():
        for parameter in parameters:
            parameter.data.add_(0.1 * torch.randn_like(parameter))
    prompt = Prompts(tiny.tokenizer()).leader(tiny.CHAT)
    completions = [
        Completion(n, prompt, Sample(ids, (-1.0,) * len(ids), ended=True), "") for n, ids in enumerate(ANSWERS)
    ]
    rows = [Episode(role, answer, 0.25, 1e-3, (role,)) for role in ROLES for answer in completions]
    kept: dict[int, Tensor] = {}  # which keeps them alive, so that no address is given twice

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        kind(roles, settings, Clock()).learn(rows)
    gradients: list[Any] = [p.grad for parameters in roles.trained.values() for p in parameters]
    size = sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
    return [gradient for gradient in gradients if gradient is not None], size


@pytest.mark.parametrize(
    ("weights", "autocast"),
    [("separate", "none"), ("shared", "none"), ("full", "none"), ("separate", "bfloat16"), ("shared", "bfloat16")],
)
def test_gradients_are_those_of_all_logits_at_once(
    weights: str, autocast: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """But for a head that learns under autocast: its gradient is rounded to bfloat16, and here each part of it is."""
    monkeypatch.setitem(scoring.MOST_LOGITS, "cpu", 3 * tiny.VOCABULARY)
    found, _ = learnt(tmp_path, Learner, weights, autocast)
    expected, _ = learnt(tmp_path, AllLogits, weights, autocast)
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)


def test_adapters_keep_no_copy_of_what_they_read(tmp_path: Path) -> None:
    """Of what attention and the gated layer hand on, which is bfloat16 already."""
    assert learnt(tmp_path, Learner, "shared", "bfloat16")[1] < learnt(tmp_path, AllLogits, "shared", "bfloat16")[1]
