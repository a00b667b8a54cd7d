"""The loss by hand: one answer of two tokens and one of one token, padded to two."""

import math

import pytest
import torch
from torch import Tensor

from slhf_training.fit.algorithms import KL, Estimator
from slhf_training.fit.loss import Loss, reinforce

LOG_PROBS = [[-1.0, -2.0], [-0.5, -9.0]]
REFERENCE = [[-1.5, -1.0], [-0.75, 7.0]]  # log-ratios: 0.5, -1.0; 0.25, padding
LENGTHS = torch.tensor([2, 1])
ADVANTAGE = [0.2, -0.4]
WEIGHT = [0.5, 0.25]
TAU = [0.1, 0.4]


def loss_of(kl: KL = "to_go", estimator: Estimator = "k1", behaviour: object = None, cap: float | None = None) -> Loss:
    def tensor(values: object) -> Tensor:
        return torch.tensor(values, dtype=torch.float64)

    log_probs = tensor(LOG_PROBS).requires_grad_(True)
    return reinforce(
        log_probs,
        tensor(REFERENCE),
        tensor(behaviour or LOG_PROBS),
        LENGTHS,
        tensor(ADVANTAGE)[:, None],
        tensor(WEIGHT),
        tensor(TAU),
        kl,
        estimator,
        cap,
    )


def test_kl_to_go_sums_from_each_token_to_the_end() -> None:
    """Answer 1: to go -0.5, -1.0; scores 0.1 * -0.5 - 0.2 = -0.25 and -0.3; -0.25 * -1 + -0.3 * -2 = 0.85.
    Answer 2: 0.4 * 0.25 + 0.4 = 0.5; 0.5 * -0.5 = -0.25. Loss: 0.5 * 0.85 + 0.25 * -0.25 = 0.3625.
    """
    assert loss_of("to_go").loss.item() == pytest.approx(0.3625)


def test_the_sequences_kl_weighs_each_token_alike() -> None:
    """Answer 1: (0.1 * -0.5 - 0.2) * (-1 - 2) = 0.75; answer 2 as above. 0.5 * 0.75 - 0.0625 = 0.3125."""
    assert loss_of("sequence").loss.item() == pytest.approx(0.3125)


def test_published_codes_penalty_looks_at_the_token_alone() -> None:
    """k1, answer 1: (0.05 - 0.2) * -1 + (-0.1 - 0.2) * -2 = 0.75; 0.5 * 0.75 - 0.0625 = 0.3125.
    k2, answer 1: (0.1 * 0.125 - 0.2) * -1 + (0.1 * 0.5 - 0.2) * -2 = 0.4875; answer 2: (0.4 / 32 + 0.4) * -0.5.
    """
    assert loss_of("token").loss.item() == pytest.approx(0.3125)
    assert loss_of("token", "k2").loss.item() == pytest.approx(0.5 * 0.4875 + 0.25 * -0.20625)


def test_reported_kl_is_k3_and_the_ratio_is_the_plain_sum() -> None:
    """k3(r) = exp(-r) - 1 + r."""
    found = loss_of()
    assert found.log_ratio.tolist() == pytest.approx([-0.5, 0.25])
    first = math.exp(-0.5) - 1 + 0.5 + math.exp(1.0) - 1 - 1.0
    assert found.kl.tolist() == pytest.approx([first, math.exp(-0.25) - 0.75])


def test_the_gap_to_the_sampler_is_a_mean_over_tokens_without_padding() -> None:
    """|-1 + 1.3| + |-2 + 1.4| + |-0.5 + 0.5| = 0.9 over three tokens."""
    assert loss_of(behaviour=[[-1.3, -1.4], [-0.5, 5.0]]).gap.item() == pytest.approx(0.3)


def test_importance_weights_are_cut_at_the_cap() -> None:
    """Weights exp(0.3) -> cut to 1.1, exp(-0.6), 1: -0.25 * 1.1 * -1 + -0.3 * exp(-0.6) * -2; answer 2 as above."""
    found = loss_of(behaviour=[[-1.3, -1.4], [-0.5, 5.0]], cap=1.1).loss.item()
    assert found == pytest.approx(0.5 * (0.275 + 0.6 * math.exp(-0.6)) - 0.0625)


def test_padding_has_no_gradient() -> None:
    log_probs = torch.tensor(LOG_PROBS, requires_grad=True)
    zeros = torch.zeros(2, 2)
    loss = reinforce(log_probs, zeros, zeros, LENGTHS, torch.ones(2, 1), torch.ones(2), torch.ones(2)).loss
    (gradient,) = torch.autograd.grad(loss, log_probs)
    assert gradient[1, 1] == 0
    assert gradient[1, 0] != 0
