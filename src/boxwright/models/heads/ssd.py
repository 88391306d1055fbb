"""SSD's head."""

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor, nn

from boxwright.models.layers import conv_norm_act, flatten_level, init_conv, init_xavier, prior_bias
from boxwright.structures import Predictions

__all__ = ["SSDHead"]


class SSDHead(nn.Module):
    """One 3×3 convolution per level for the classes and one for the boxes of its priors; nothing is shared.

    W. Liu et al., "SSD: Single Shot MultiBox Detector", 2016, arXiv:1512.02325.

    Args:
        in_channels: channels of each level.
        num_classes: C, without a background class.
        priors_per_cell: anchors per cell of each level.
        separable: a depthwise 3×3 and a 1×1 convolution instead of each 3×3: SSDLite (M. Sandler et al., "MobileNetV2",
            2018, arXiv:1801.04381).
        prior_probability: score of every class at the start, so that the mass of background does not swamp training;
            None starts without a bias, as published, where most background is not trained on at all.
    """

    per_level: ClassVar[bool] = True
    """Whether levels may differ in their channels and in their anchors per cell."""

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: Sequence[int],
        separable: bool = False,
        prior_probability: float | None = None,
    ) -> None:
        super().__init__()
        self.num_classes = num_classes
        sizes = [*zip(in_channels, priors_per_cell, strict=True)]
        self.class_logits = nn.ModuleList(_output(width, count * num_classes, separable) for width, count in sizes)
        self.box_params = nn.ModuleList(_output(width, count * 4, separable) for width, count in sizes)
        if separable:
            init_conv(self, std=0.03)  # behind a norm Xavier's weights would start with boxes that are far off
        else:
            init_xavier(self)
        if prior_probability is not None:
            for output in self.class_logits:
                nn.init.constant_(output[-1].bias, prior_bias(prior_probability))  # type: ignore[index]

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_n, H_n, W_n), one per level, to predictions for all L priors."""
        logits, params = (
            torch.cat(
                [flatten_level(output(feature), size) for output, feature in zip(outputs, features, strict=True)], 1
            )
            for outputs, size in ((self.class_logits, self.num_classes), (self.box_params, 4))
        )
        return Predictions(logits, params)


def _output(in_channels: int, channels: int, separable: bool) -> nn.Sequential:
    if not separable:
        return nn.Sequential(nn.Conv2d(in_channels, channels, 3, padding=1))
    depthwise = conv_norm_act(in_channels, in_channels, 3, groups=in_channels, norm="bn")
    return nn.Sequential(depthwise, nn.Conv2d(in_channels, channels, 1))
