"""The head of ATSS: RetinaNet's with a scale per level and a quality branch."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from boxwright.models.heads.retina import RetinaHead
from boxwright.models.layers import Norm, flatten_level, init_conv
from boxwright.structures import Predictions

__all__ = ["ATSSHead"]


class ATSSHead(RetinaHead):
    """Two towers shared by all levels; the box tower also says how good a box is, in `extras["quality"]` (B, L, 1).

    The quality is what the criterion trains it for: the centerness of the prior or the IoU of the box. At inference it
    multiplies the class scores. Zhang et al. 2020, arXiv:1912.02424.

    Args:
        in_channels: channels of each level (all equal).
        num_classes: C, without a background class.
        priors_per_cell: anchors per cell of a level.
        convs: convolutions per tower.
        channels: their width.
        norm: norm layers of the towers.
        prior_probability: score of every class at the start.
    """

    rates_boxes: ClassVar[bool] = True

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: int = 1,
        convs: int = 4,
        channels: int = 256,
        norm: Norm = "gn",
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__(in_channels, num_classes, priors_per_cell, convs, channels, norm, prior_probability)
        self.quality = nn.Conv2d(self.box_params.in_channels, priors_per_cell, 3, padding=1)
        init_conv(self.quality)
        self.scales = nn.Parameter(torch.ones(len(in_channels)))

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_in, H_n, W_n), one per level, to predictions for all L priors."""
        logits, params, quality = [], [], []
        for feature, scale in zip(features, self.scales, strict=True):
            logits.append(flatten_level(self.class_logits(self.class_tower(feature)), self.num_classes))
            box = self.box_tower(feature)
            params.append(flatten_level(self.box_params(box) * scale, 4))
            quality.append(flatten_level(self.quality(box), 1))
        return Predictions(torch.cat(logits, dim=1), torch.cat(params, dim=1), {"quality": torch.cat(quality, dim=1)})
