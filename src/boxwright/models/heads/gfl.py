"""The heads of Generalized Focal Loss: boxes as distributions, and with `quality` their sharpness in the score."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.models.heads.quality import DistributionQuality, product_logit
from boxwright.models.layers import (
    Norm,
    conv_tower,
    flatten_level,
    init_conv,
    one_prior_per_cell,
    prior_bias,
    shared_width,
)
from boxwright.structures import Predictions

__all__ = ["GFLHead"]


class GFLHead(nn.Module):
    """Two towers shared by all levels: class logits and, per side of the box, logits over 0, 1, …, reg_max strides.

    Li et al. 2020, arXiv:2006.04388; with `quality` Li et al. 2021, arXiv:2011.12885, where a score is class times
    quality and `logits` are the logits of that product.

    Args:
        in_channels: channels of each level (all equal).
        num_classes: C, without a background class.
        priors_per_cell: 1, one point or square per cell.
        convs: convolutions per tower.
        channels: their width.
        norm: norm layers of the towers.
        reg_max: largest distance in strides.
        quality: predict a box's quality from its distributions (GFLv2).
        quality_hidden: hidden channels of that prediction.
        prior_probability: score of every class at the start.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: int = 1,
        convs: int = 4,
        channels: int = 256,
        norm: Norm = "gn",
        reg_max: int = 16,
        quality: bool = False,
        quality_hidden: int = 64,
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        one_prior_per_cell(priors_per_cell)
        own = shared_width(in_channels)
        self.class_tower = conv_tower(own, channels, convs, norm)
        self.box_tower = conv_tower(own, channels, convs, norm)
        width = channels if convs else own
        self.class_logits = nn.Conv2d(width, num_classes, 3, padding=1)
        self.distribution = nn.Conv2d(width, 4 * (reg_max + 1), 3, padding=1)
        self.scales = nn.Parameter(torch.ones(len(in_channels)))
        init_conv(self)
        self.quality = DistributionQuality(reg_max, hidden=quality_hidden) if quality else None
        nn.init.constant_(self.class_logits.bias, prior_bias(prior_probability))  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_in, H_n, W_n), one per level, to predictions for all L priors."""
        logits, params = [], []
        for feature, scale in zip(features, self.scales, strict=True):
            distribution = self.distribution(self.box_tower(feature)) * scale
            score = self.class_logits(self.class_tower(feature))
            if self.quality is not None:
                score = product_logit(score, self.quality(distribution))
            logits.append(flatten_level(score, score.shape[1]))
            params.append(flatten_level(distribution, distribution.shape[1]))
        return Predictions(torch.cat(logits, dim=1), torch.cat(params, dim=1))
