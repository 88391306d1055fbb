"""The head of a region proposal network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.models.layers import Norm, conv_tower, flatten_level, init_conv, prior_bias
from boxwright.structures import Predictions

__all__ = ["RPNHead"]


class RPNHead(nn.Module):
    """A 3×3 convolution shared by all levels and by both tasks, then 1×1 convolutions to logits and box parameters.

    S. Ren et al., "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", 2015,
    arXiv:1506.01497, where the only class is "object".

    Args:
        in_channels: channels of each level (all equal).
        num_classes: C, without a background class.
        priors_per_cell: anchors per cell of a level.
        convs: 3×3 convolutions before the two tasks part.
        channels: their width.
        norm: "none" as published, "gn" or "bn".
        prior_probability: score of every class at the start.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: int,
        convs: int = 1,
        channels: int = 256,
        norm: Norm = "none",
        prior_probability: float = 0.5,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.tower = conv_tower(in_channels[0], channels, convs, norm)
        width = channels if convs else in_channels[0]
        self.class_logits = nn.Conv2d(width, priors_per_cell * num_classes, 1)
        self.box_params = nn.Conv2d(width, priors_per_cell * 4, 1)
        init_conv(self)
        nn.init.constant_(self.class_logits.bias, prior_bias(prior_probability))  # type: ignore[arg-type]

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_in, H_n, W_n), one per level, to predictions for all L priors."""
        towers = [self.tower(feature) for feature in features]
        logits = [flatten_level(self.class_logits(tower), self.num_classes) for tower in towers]
        params = [flatten_level(self.box_params(tower), 4) for tower in towers]
        return Predictions(torch.cat(logits, dim=1), torch.cat(params, dim=1))
