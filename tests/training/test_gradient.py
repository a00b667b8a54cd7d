"""The estimator's gradient, in expectation, against the exact gradient: every answer is enumerated, in float64.

Answers over a vocabulary of three tokens, of which 0 ends the answer, cut at three tokens: lengths differ, so that
masks count too. Policies are tables: logits by prefix, for the Follower by the Leader's answer as well.
"""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from slhf_training.fit.algorithms import KL, EpisodeReturn, advantages
from slhf_training.fit.loss import reinforce

VOCABULARY, LONGEST, END = 3, 3, 0
TAU_L, TAU_F = 0.3, 0.2
Answer = tuple[int, ...]


def every_answer() -> list[Answer]:
    """Either it ends with END, which is nowhere else, or it is cut at the limit: 1 + 2 + 4 * 3 = 15."""
    found: list[Answer] = []
    for length in range(1, LONGEST + 1):
        for ids in itertools.product(range(VOCABULARY), repeat=length):
            if END not in ids[:-1] and (ids[-1] == END or length == LONGEST):
                found.append(ids)
    return found


ANSWERS = every_answer()
PREFIXES = [p for n in range(LONGEST) for p in itertools.product(range(1, VOCABULARY), repeat=n)]


def token_log_probs(logits: Tensor) -> Tensor:  # (..., prefixes, V) -> (..., answers, T), 0 in padding
    log_probs = torch.log_softmax(logits, dim=-1)
    rows = []
    for ids in ANSWERS:
        steps = [log_probs[..., PREFIXES.index(ids[:t]), ids[t]] for t in range(len(ids))]
        steps += [torch.zeros_like(steps[0])] * (LONGEST - len(ids))
        rows.append(torch.stack(steps, dim=-1))
    return torch.stack(rows, dim=-2)


class Game:
    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        n = len(ANSWERS)
        self.leader = torch.randn(len(PREFIXES), VOCABULARY, dtype=torch.float64, requires_grad=True)
        self.follower = torch.randn(n, len(PREFIXES), VOCABULARY, dtype=torch.float64, requires_grad=True)
        self.leader_reference = torch.randn(len(PREFIXES), VOCABULARY, dtype=torch.float64)
        self.follower_reference = torch.randn(n, len(PREFIXES), VOCABULARY, dtype=torch.float64)
        p = torch.rand(n, n, dtype=torch.float64)
        self.p = p.triu(1) + (1 - p.T).tril(-1) + 0.5 * torch.eye(n, dtype=torch.float64)  # P + P^T = 1
        self.lengths = torch.tensor([len(a) for a in ANSWERS])

    def exact(self) -> Tensor:
        """E_y [ E_y' p(y > y') + tau_F KL(omega || ref) ] - tau_L KL(pi || ref), as the paper writes it."""
        log_pi, log_omega = token_log_probs(self.leader).sum(-1), token_log_probs(self.follower).sum(-1)
        ref_pi = token_log_probs(self.leader_reference).sum(-1)
        ref_omega = token_log_probs(self.follower_reference).sum(-1)
        pi, omega = log_pi.exp(), log_omega.exp()
        kl_f = (omega * (log_omega - ref_omega)).sum(-1)
        value = (omega * self.p).sum(-1) + TAU_F * kl_f
        return (pi * value).sum() - TAU_L * (pi * (log_pi - ref_pi)).sum()

    def estimated(self, kl: KL, leave_out_bonus: bool = False) -> tuple[Tensor, Tensor]:
        """Gradients of the expected loss of both roles: every pair (y, y') with its probability as weight."""
        n = len(ANSWERS)
        log_pi, log_omega = token_log_probs(self.leader), token_log_probs(self.follower)
        joint = (log_pi.sum(-1)[:, None] + log_omega.sum(-1)).exp().detach().flatten()  # (n * n,)
        ref_omega = token_log_probs(self.follower_reference)
        ref_pi = token_log_probs(self.leader_reference)
        p = self.p.flatten()

        def loss(
            log_probs: Tensor, reference: Tensor, lengths: Tensor, reward: Tensor, tau: float
        ) -> tuple[Tensor, Tensor]:
            rows = [EpisodeReturn(("", 0), r, (r,)) for r in reward.tolist()]
            advantage = torch.tensor(advantages(rows, leave_one_out=False), dtype=torch.float64)
            taus = torch.full_like(reward, tau)
            found = reinforce(log_probs, reference, log_probs.detach(), lengths, advantage, joint, taus, kl)
            return found.loss, found.log_ratio

        flat_omega = log_omega.reshape(n * n, LONGEST)
        follower, ratio = loss(flat_omega, ref_omega.reshape(n * n, LONGEST), self.lengths.repeat(n), 1 - p, TAU_F)
        bonus = 0 * ratio if leave_out_bonus else TAU_F * ratio
        leader, _ = loss(
            log_pi.repeat_interleave(n, dim=0),
            ref_pi.repeat_interleave(n, dim=0),
            self.lengths.repeat_interleave(n),
            p + bonus,
            TAU_L,
        )
        return gradient(leader, self.leader), gradient(follower, self.follower)


def gradient(value: Tensor, parameter: Tensor) -> Tensor:
    return torch.autograd.grad(value, parameter, retain_graph=True)[0]


def relative_error(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).norm() / expected.norm())


def errors(kl: KL, **options: bool) -> tuple[float, float]:
    """Of the Leader, who ascends the objective, and of the Follower, who descends it; the loss is to be minimised."""
    game = Game(seed=0)
    leader, follower = game.estimated(kl, **options)
    objective = game.exact()
    return (
        relative_error(leader, -gradient(objective, game.leader)),
        relative_error(follower, gradient(objective, game.follower)),
    )


def test_the_answers_are_all_there() -> None:
    assert len(ANSWERS) == 15
    total = token_log_probs(torch.randn(len(PREFIXES), VOCABULARY, dtype=torch.float64)).sum(-1).exp().sum()
    assert float(total) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("kl", ["to_go", "sequence"])
def test_the_estimator_is_unbiased_for_both_roles(kl: KL) -> None:
    leader, follower = errors(kl)
    assert leader < 1e-10
    assert follower < 1e-10


def test_a_penalty_on_the_own_token_alone_is_biased() -> None:
    leader, follower = errors("token")
    assert leader > 0.05
    assert follower > 0.05


def test_without_the_followers_kl_the_leaders_gradient_is_biased() -> None:
    leader, follower = errors("to_go", leave_out_bonus=True)
    assert leader > 0.05
    assert follower < 1e-10


def test_a_baseline_by_position_is_unbiased_and_less_noisy_than_one_for_all() -> None:
    """Two answers to one prompt, each the other's baseline: every pair is enumerated. For all positions: the other's
    whole worth, which is unbiased too."""
    game = Game(seed=3)
    reward = torch.rand(len(ANSWERS), dtype=torch.float64)
    log_pi, reference = token_log_probs(game.leader), token_log_probs(game.leader_reference)
    probability = log_pi.sum(-1).exp()
    ratios = (log_pi - reference).detach()
    kl = (probability * (log_pi - reference).sum(-1)).sum()
    tau = 2.0
    expected = -gradient((probability * reward).sum() - tau * kl, game.leader)

    def graded(i: int, by_position: bool) -> EpisodeReturn:
        to_go = [float(ratios[i, t:].sum()) for t in range(int(game.lengths[i]) + 1)]
        return_to_go = [reward[i].item() - tau * (there if by_position else to_go[0]) for there in to_go]
        return EpisodeReturn(("", 0), reward[i].item(), tuple(return_to_go))

    def moments(by_position: bool) -> tuple[Tensor, float]:
        mean, squares = torch.zeros_like(game.leader), 0.0
        for i, j in itertools.product(range(len(ANSWERS)), repeat=2):
            pair = [graded(i, by_position), graded(j, by_position)]
            (advantage,) = advantages(pair[:1], leave_one_out=True, pool=pair)
            row, length = log_pi[i : i + 1], game.lengths[i : i + 1]
            padded = torch.zeros(1, LONGEST, dtype=torch.float64)
            padded[0, : int(length)] = torch.tensor(advantage[: int(length)], dtype=torch.float64)
            one = torch.ones(1, dtype=torch.float64)
            found = gradient(
                reinforce(row, reference[i : i + 1].detach(), row.detach(), length, padded, one, tau * one).loss,
                game.leader,
            )
            weight = float((probability[i] * probability[j]).detach())
            mean, squares = mean + weight * found, squares + weight * float(found.square().sum())
        return mean, squares

    (mean, squares), (mean_of_all, squares_of_all) = moments(True), moments(False)
    assert relative_error(mean, expected) < 1e-10
    assert relative_error(mean_of_all, expected) < 1e-10
    assert squares < 0.8 * squares_of_all


def test_kl_to_go_has_less_variance_than_the_sequences() -> None:
    game = Game(seed=1)
    log_pi = token_log_probs(game.leader)
    reference = token_log_probs(game.leader_reference)
    probability = log_pi.sum(-1).exp().detach()

    def variance(kl: KL) -> float:
        squares = []
        zero, one = torch.zeros(1, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
        for i in range(len(ANSWERS)):
            row, ref, length = log_pi[i : i + 1], reference[i : i + 1], game.lengths[i : i + 1]
            loss = reinforce(row, ref, row.detach(), length, zero, one, one, kl).loss
            squares.append(float(gradient(loss, game.leader).square().sum() * probability[i]))
        return float(np.sum(squares))

    assert variance("to_go") < variance("sequence")


def test_importance_weights_make_another_samplers_answers_unbiased_per_token() -> None:
    """One-token answers: weight pi / behaviour, drawn from the behaviour, is exactly on-policy again."""
    torch.manual_seed(2)
    logits = torch.randn(VOCABULARY, dtype=torch.float64, requires_grad=True)
    behaviour = torch.log_softmax(torch.randn(VOCABULARY, dtype=torch.float64), dim=-1)
    reward = torch.rand(VOCABULARY, dtype=torch.float64)
    log_pi = torch.log_softmax(logits, dim=-1)
    ones = torch.ones(VOCABULARY, dtype=torch.float64)
    lengths = torch.ones(VOCABULARY, dtype=torch.long)
    weights = (reward[:, None], behaviour.exp(), 0 * ones)
    args = (log_pi[:, None], behaviour[:, None], behaviour[:, None], lengths, *weights)
    expected = -gradient((log_pi.exp() * reward).sum(), logits)
    assert relative_error(gradient(reinforce(*args, importance_cap=1e9).loss, logits), expected) < 1e-10
    assert relative_error(gradient(reinforce(*args, importance_cap=1e-9).loss, logits), expected) > 0.5


def test_truncated_weights_leave_out_what_the_sampler_hardly_says() -> None:
    """One-token answers of a sampler far off: the gradient is that of answers with min(pi, cap * behaviour)."""
    torch.manual_seed(2)
    logits = torch.randn(VOCABULARY, dtype=torch.float64, requires_grad=True)
    behaviour = torch.tensor([0.05, 0.15, 0.8], dtype=torch.float64)
    reward = torch.rand(VOCABULARY, dtype=torch.float64)
    log_pi = torch.log_softmax(logits, dim=-1)
    kept = torch.minimum(log_pi.exp(), 2.0 * behaviour).detach()
    assert 0 < int((kept < log_pi.exp()).sum()) < VOCABULARY
    lengths, zeros = torch.ones(VOCABULARY, dtype=torch.long), torch.zeros(VOCABULARY, dtype=torch.float64)
    said = behaviour.log()[:, None]
    loss = reinforce(log_pi[:, None], said, said, lengths, reward[:, None], behaviour, zeros, importance_cap=2.0).loss
    assert relative_error(gradient(loss, logits), -gradient((kept * reward * log_pi).sum(), logits)) < 1e-10


def test_truncated_weights_take_most_of_the_bias_of_a_sampler_that_is_nearly_the_trainer() -> None:
    """Whole answers, all enumerated, of policies whose logits were disturbed a little, as rounding does. What is left
    is the chance of what stands before and behind a token."""
    weighted, plain = zip(*(_errors_of_another_sampler(seed) for seed in range(6)), strict=True)
    assert sum(weighted) < 0.7 * sum(plain)


def _errors_of_another_sampler(seed: int) -> tuple[float, float]:
    """Of the gradient with weights that are cut at 2, and of that without any."""
    game = Game(seed)
    log_pi, reference = token_log_probs(game.leader), token_log_probs(game.leader_reference)
    sampler = token_log_probs(game.leader.detach() + 0.1 * torch.randn_like(game.leader))
    reward = torch.rand(len(ANSWERS), dtype=torch.float64)
    objective = (log_pi.sum(-1).exp() * (reward - TAU_L * (log_pi - reference).sum(-1))).sum()

    def error(cap: float | None) -> float:
        weight, taus = sampler.sum(-1).exp(), torch.full_like(reward, TAU_L)
        loss = reinforce(
            log_pi, reference, sampler, game.lengths, reward[:, None], weight, taus, importance_cap=cap
        ).loss
        return relative_error(gradient(loss, game.leader), -gradient(objective, game.leader))

    return error(2.0), error(None)
