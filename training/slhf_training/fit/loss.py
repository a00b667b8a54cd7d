"""REINFORCE with a KL penalty: the loss whose gradient, in expectation over on-policy samples, is that of

    -( E[reward] - tau KL(policy || reference) )

for one role. With A_t the advantage, log-ratio_t = log policy_t - log reference_t and all weights detached:

    loss = sum over sequences of weight * sum over tokens of (tau * K_t - A_t) * log policy_t

    kl        K_t                                      gradient
    to_go     sum of log-ratios from t to the end      unbiased (default)
    sequence  sum of all log-ratios                    unbiased, more variance
    token     the estimator k1, k2 or k3 at t alone    biased: what published code does, for comparison

k1 = log-ratio, k2 = k1^2 / 2, k3 = expm1(-k1) + k1.

Where a sampler is not quite the trainer (its weights are rounded, its kernels are others), each token's term counts
min(policy / sampler, importance_cap), detached: truncated importance weights (Ionides, 2008), per token. They correct
the token's own probability. What stays is the bias of the tokens before and behind it, which are the sampler's
(products over whole answers would take it, at a variance that grows with their length), and what the cap cuts off: a
token that the sampler says less than 1 / cap times as often as the policy counts too little, never too much.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from slhf_training.fit.algorithms import KL, Estimator


@dataclass(frozen=True, slots=True)
class Loss:
    loss: Tensor  # ()
    log_ratio: Tensor  # (B,): sum of log policy - log reference; an unbiased estimate of the KL of each prompt
    kl: Tensor  # (B,): the sum of k3, of the same expectation and never negative; to report
    gap: Tensor  # (): mean |log policy - log-prob at sampling| per token; 0 where the sampler is the trainer
    """What is learnt from and what is shown; only `loss` has a gradient."""


def reinforce(
    log_probs: Tensor,  # (B, T): of the policy, with gradient
    reference: Tensor,  # (B, T)
    behaviour: Tensor,  # (B, T): log-probs when sampled
    lengths: Tensor,  # (B,): tokens of each answer, its end-of-sequence token included
    advantage: Tensor,  # (B, T), or (B, 1) where it is the same for all tokens
    weight: Tensor,  # (B,)
    tau: Tensor,  # (B,)
    kl: KL = "to_go",
    estimator: Estimator = "k1",
    importance_cap: float | None = None,
) -> Loss:
    mask = torch.arange(log_probs.shape[1], device=lengths.device) < lengths[:, None]  # (B, T): never from a pad id
    detached = log_probs.detach()
    ratio = (detached - reference).masked_fill(~mask, 0.0)  # (B, T)
    drift = (detached - behaviour).masked_fill(~mask, 0.0)  # (B, T)
    score = tau[:, None] * _penalty(ratio, kl, estimator) - advantage  # (B, T)
    if importance_cap is not None:
        score = score * drift.exp().clamp(max=importance_cap)
    per_sequence = (score * log_probs.masked_fill(~mask, 0.0)).sum(dim=1)  # (B,)
    return Loss(
        loss=(weight * per_sequence).sum(),
        log_ratio=ratio.sum(dim=1),
        kl=ESTIMATORS["k3"](ratio).sum(dim=1),
        gap=drift.abs().sum() / lengths.sum().clamp(min=1),
    )


ESTIMATORS = {
    "k1": lambda ratio: ratio,
    "k2": lambda ratio: ratio**2 / 2,
    "k3": lambda ratio: torch.expm1(-ratio) + ratio,
}


def _penalty(ratio: Tensor, kl: KL, estimator: Estimator) -> Tensor:  # (B, T) -> (B, T)
    if kl == "token":
        return torch.as_tensor(ESTIMATORS[estimator](ratio))
    if kl == "sequence":
        return ratio.sum(dim=1, keepdim=True).expand_as(ratio)
    return ratio.flip(1).cumsum(dim=1).flip(1)
