"""NanoDet's head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.models.layers import flatten_level, init_conv, one_prior_per_cell, prior_bias, separable_conv
from boxwright.structures import Predictions

__all__ = ["NanoDetHead"]


class NanoDetHead(nn.Module):
    """Per level one branch of depthwise separable convolutions, whose last 1×1 predicts classes and distributions.

    RangiLyu, "NanoDet" 2020 and "NanoDet-Plus" 2021 (no paper; github.com/RangiLyu/nanodet). Parameters are logits over
    0, 1, …, reg_max strides per side, for `IntegralCoder`.

    Args:
        in_channels: channels of each level.
        num_classes: C, without a background class.
        priors_per_cell: 1, one point or square per cell.
        convs: separable convolutions per level.
        channels: their width.
        kernel: 3 in NanoDet, 5 in NanoDet-Plus.
        reg_max: largest distance in strides.
        prior_probability: score of every class at the start.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: int = 1,
        convs: int = 2,
        channels: int = 96,
        kernel: int = 3,
        reg_max: int = 7,
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        one_prior_per_cell(priors_per_cell)
        self.sizes = (num_classes, 4 * (reg_max + 1))
        self.towers = nn.ModuleList(_tower(width, channels, convs, kernel) for width in in_channels)
        self.outputs = nn.ModuleList(nn.Conv2d(channels, sum(self.sizes), 1) for _ in in_channels)
        for layer in self.outputs:
            init_conv(layer)
            nn.init.constant_(layer.bias[:num_classes], prior_bias(prior_probability))  # type: ignore[index]

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_n, H_n, W_n), one per level, to predictions for all L priors."""
        levels = [
            flatten_level(output(tower(feature)), sum(self.sizes))
            for feature, tower, output in zip(features, self.towers, self.outputs, strict=True)
        ]
        return Predictions(*torch.cat(levels, dim=1).split(self.sizes, dim=-1))


def _tower(in_channels: int, channels: int, convs: int, kernel: int) -> nn.Sequential:
    widths = [in_channels, *[channels] * (convs - 1)]
    return nn.Sequential(*(separable_conv(width, channels, kernel) for width in widths))
