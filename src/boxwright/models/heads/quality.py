"""Scores that are products of probabilities, and GFLv2's quality read off a box distribution."""

import torch
from torch import Tensor, nn

from boxwright.losses.reduction import upcast
from boxwright.models.layers import init_conv

__all__ = ["DistributionQuality", "product_logit"]


def product_logit(first: Tensor, second: Tensor, power: float = 1.0) -> Tensor:
    """Logit of `(σ(first) · σ(second)) ** power`, so that every loss of logits can train a product; float32 at least.

    >>> product_logit(torch.tensor([0.0]), torch.tensor([40.0]))
    tensor([0.])
    """
    first, second = upcast(first), upcast(second)
    log = power * (nn.functional.logsigmoid(first) + nn.functional.logsigmoid(second))
    log = log.clamp(max=-1e-30)  # a score of exactly 1 has no logit
    rest: Tensor = torch.log(-torch.expm1(log))
    return log - rest


class DistributionQuality(nn.Module):
    """Predicts how good a box is from how peaked its four distributions are; gradients flow into them.

    The largest probabilities of each side, and their mean, pass two 1×1 convolutions.
    Li et al. 2021, arXiv:2011.12885.

    Args:
        reg_max: the distributions are over 0, 1, …, reg_max.
        topk: how many of the largest probabilities.
        mean: whether their mean is seen as well.
        hidden: channels between the convolutions.

    Raises:
        ValueError: a distribution has fewer bins than `topk`.
    """

    def __init__(self, reg_max: int = 16, topk: int = 4, mean: bool = True, hidden: int = 64) -> None:
        super().__init__()
        if reg_max + 1 < topk:
            raise ValueError(
                f"topk={topk} probabilities are read, but there are only {reg_max + 1} bins: reg_max must be at least "
                f"{topk - 1}"
            )
        self.reg_max = reg_max
        self.topk = topk
        self.mean = mean
        self.layers = nn.Sequential(
            nn.Conv2d(4 * (topk + mean), hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, 1, 1)
        )
        init_conv(self.layers)

    def forward(self, distribution: Tensor) -> Tensor:
        """Map the logits of the sides' distributions (B, 4 · (reg_max + 1), H, W) to quality logits (B, 1, H, W)."""
        logits: Tensor = self.layers(self.statistics(distribution))
        return logits

    def statistics(self, distribution: Tensor) -> Tensor:
        """Return what the convolutions see: (B, 4 · (topk + mean), H, W), side by side."""
        images, _, height, width = distribution.shape
        probability = upcast(distribution).reshape(images, 4, self.reg_max + 1, height, width).softmax(dim=2)
        top = probability.topk(self.topk, dim=2).values  # (B, 4, topk, H, W)
        if self.mean:
            top = torch.cat([top, top.mean(dim=2, keepdim=True)], dim=2)
        return top.flatten(1, 2)
