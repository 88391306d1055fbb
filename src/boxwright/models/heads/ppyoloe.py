"""PP-YOLOE's efficient task-aligned head."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.models.layers import flatten_level, one_prior_per_cell, prior_bias
from boxwright.structures import Predictions

__all__ = ["PPYOLOEHead"]


class PPYOLOEHead(nn.Module):
    """Per level a squeeze-and-excitation stem and one 3×3 convolution for classes and for box distributions each.

    Parameters are logits over 0, 1, …, reg_max strides per side, for `IntegralCoder`. Xu et al. 2022, arXiv:2203.16250.

    Args:
        in_channels: channels of each level, which may differ.
        num_classes: C, without a background class.
        priors_per_cell: 1, one point per cell.
        reg_max: largest distance in strides.
        prior_probability: score of every class at the start.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: int = 1,
        reg_max: int = 16,
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        one_prior_per_cell(priors_per_cell)
        self.class_stems = nn.ModuleList(_SqueezeExcite(channels) for channels in in_channels)
        self.box_stems = nn.ModuleList(_SqueezeExcite(channels) for channels in in_channels)
        self.class_logits = nn.ModuleList(nn.Conv2d(n, num_classes, 3, padding=1) for n in in_channels)
        self.distributions = nn.ModuleList(nn.Conv2d(n, 4 * (reg_max + 1), 3, padding=1) for n in in_channels)
        for logits, distribution in zip(self.class_logits, self.distributions, strict=True):
            nn.init.zeros_(logits.weight)  # type: ignore[arg-type]
            nn.init.constant_(logits.bias, prior_bias(prior_probability))  # type: ignore[arg-type]
            nn.init.zeros_(distribution.weight)  # type: ignore[arg-type]
            nn.init.constant_(distribution.bias, 1.0)  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_n, H_n, W_n), one per level, to predictions for all L priors."""
        logits, params = [], []
        for level, feature in enumerate(features):
            pooled = feature.mean(dim=(2, 3), keepdim=True)
            score = self.class_logits[level](self.class_stems[level](feature, pooled) + feature)
            distribution = self.distributions[level](self.box_stems[level](feature, pooled))
            logits.append(flatten_level(score, score.shape[1]))
            params.append(flatten_level(distribution, distribution.shape[1]))
        return Predictions(torch.cat(logits, dim=1), torch.cat(params, dim=1))


class _SqueezeExcite(nn.Module):
    """Weighs channels by their means, then mixes them: 1×1 convolution, batch norm, swish."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Conv2d(channels, channels, 1)
        self.mix = nn.Sequential(nn.Conv2d(channels, channels, 1, bias=False), nn.BatchNorm2d(channels), nn.SiLU())
        nn.init.normal_(self.weight.weight, std=0.001)

    def forward(self, feature: Tensor, pooled: Tensor) -> Tensor:
        """Weigh and mix a feature (B, C, H, W) whose mean is `pooled` (B, C, 1, 1)."""
        mixed: Tensor = self.mix(feature * self.weight(pooled).sigmoid())
        return mixed
