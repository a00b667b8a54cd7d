"""Two adapters on one base: who is on, who has gradients, and what the reference is."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from torch import Tensor

from slhf_training.errors import SettingsError
from slhf_training.models import Lora
from slhf_training.models.roles import Roles
from slhf_training.types import ROLES, Role
from tests.training import tiny

IDS = torch.tensor([[1, 4, 5, 6, 8, 2]])
LORA = Lora(r=4, alpha=8)
Weights = Literal["separate", "shared", "full"]


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        return torch.as_tensor(model(input_ids=IDS).logits)


def disturbed(weights: Weights, **options: Any) -> Roles:
    """Roles whose trained weights have moved."""
    roles = Roles(tiny.model(), weights, LORA, **options)
    torch.manual_seed(1)
    for parameters in roles.trained.values():
        for parameter in parameters:
            parameter.data += 0.1 * torch.randn_like(parameter)
    return roles


@pytest.mark.parametrize("weights", ["separate", "shared", "full"])
def test_the_reference_is_the_base_to_the_bit(weights: Weights) -> None:
    roles = disturbed(weights)
    expected = logits(tiny.model())
    assert not torch.equal(logits(roles.use("leader")), expected)
    assert torch.equal(logits(roles.use_reference()), expected)


def test_separate_roles_differ_and_shared_ones_do_not() -> None:
    separate, shared = disturbed("separate"), disturbed("shared")
    assert not torch.equal(logits(separate.use("leader")), logits(separate.use("follower")))
    assert torch.equal(logits(shared.use("leader")), logits(shared.use("follower")))


@pytest.mark.parametrize("weights", ["separate", "shared", "full"])
@pytest.mark.parametrize("role", ROLES)
def test_the_merged_copy_speaks_as_the_role(weights: Weights, role: Role) -> None:
    roles = disturbed(weights)
    torch.testing.assert_close(logits(roles.merged(role)), logits(roles.use(role)), rtol=1e-4, atol=1e-4)


def test_every_switch_leaves_all_adapters_trainable_and_the_base_frozen() -> None:
    roles = disturbed("separate")
    switches: list[Callable[[], Any]] = [
        partial(roles.use, "follower"),
        roles.use_reference,
        partial(roles.use, "leader"),
    ]
    for switch in switches:
        switch()
        trainable = {name for name, p in roles.model.named_parameters() if p.requires_grad}
        assert trainable == {name for name, _ in roles.model.named_parameters() if "lora_" in name}


def test_switching_after_a_backward_keeps_the_other_roles_gradient() -> None:
    roles = disturbed("separate")
    roles.use("follower")(input_ids=IDS).logits.sum().backward()
    roles.use_reference()
    roles.use("leader")
    assert all(p.grad is not None for p in roles.trained["follower"])
    assert all(p.grad is None for p in roles.trained["leader"])


@pytest.mark.parametrize("weights", ["separate", "shared", "full"])
def test_what_is_saved_loads_into_other_roles(weights: Weights, tmp_path: Path) -> None:
    roles, fresh = disturbed(weights), Roles(tiny.model(), weights, LORA)
    roles.save(tmp_path)
    fresh.load(tmp_path)
    for role in ROLES:
        assert torch.equal(logits(fresh.use(role)), logits(roles.use(role)))
    assert all(p.requires_grad for parameters in fresh.trained.values() for p in parameters)


def test_one_base_serves_both_adapters() -> None:
    one, two = Roles(tiny.model(), "shared", LORA), Roles(tiny.model(), "separate", LORA)

    def size(roles: Roles) -> int:
        return sum(p.numel() for p in roles.model.parameters())

    assert size(two) - size(one) == sum(p.numel() for p in one.trained["policy"])


def test_a_baseline_trains_one_adapter_which_plays_both_roles() -> None:
    roles = disturbed("separate", players=("leader",))
    assert list(roles.trained) == ["leader"]
    assert torch.equal(logits(roles.use("follower")), logits(roles.use("leader")))


def test_dropout_is_off_even_in_training_mode() -> None:
    roles = disturbed("separate")
    model = roles.use("leader").train()
    assert torch.equal(logits(model), logits(model))


@pytest.mark.parametrize("modules", ["all-linear", ["q_proj", "down_proj"]])
def test_adapters_may_be_in_the_upper_layers_alone(modules: str | list[str]) -> None:
    everywhere, upper = (
        Roles(tiny.model(), "separate", Lora(r=4, target_modules=modules, layers=layers)) for layers in (None, (1, 2))
    )
    expected = {name for name, p in everywhere.model.named_parameters() if p.requires_grad and ".layers.1." in name}
    assert {name for name, p in upper.model.named_parameters() if p.requires_grad} == expected
    assert len(expected) == 2 * 2 * (7 if modules == "all-linear" else 2)  # roles, factors, layers of a block


def test_layers_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"lora.layers: the model has layers 0 to 1, got \[1, 3\]"):
        Roles(tiny.model(), "shared", Lora(layers=(1, 3)))
