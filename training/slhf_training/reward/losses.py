"""Losses of reward models: scores in, a mean loss out."""

from torch import Tensor
from torch.nn.functional import mse_loss, softplus


def bradley_terry(
    chosen: Tensor,  # (B,)
    rejected: Tensor,  # (B,)
) -> Tensor:
    """-log sigmoid(r(chosen) - r(rejected)), the mean over pairs; in nats."""
    return softplus(rejected - chosen).mean()


def regression(
    scores: Tensor,  # (B,)
    targets: Tensor,  # (B,)
) -> Tensor:
    """Mean squared error, on the targets' scale."""
    return mse_loss(scores, targets)
