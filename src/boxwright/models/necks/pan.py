"""Path aggregation network."""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from boxwright.models.layers import conv_norm_act
from boxwright.models.necks.fpn import FPN

__all__ = ["PAN"]


class PAN(nn.Module):
    """Feature pyramid with a second, bottom-up path, so that coarse levels see fine features after few layers.

    Liu et al. 2018, arXiv:1803.01534. `light` is NanoDet's form (RangiLyu 2020): nothing but the lateral convolutions
    has weights; both paths resize bilinearly and add.

    Args:
        in_channels: channels of the backbone's features, finest first.
        channels: channels of every output level.
        extra_levels: further levels, as in `FPN`.
        norm: "none" or "bn" after every convolution.
        light: leave out all but the lateral convolutions.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        channels: int = 256,
        extra_levels: int = 0,
        norm: Literal["none", "bn"] = "none",
        light: bool = False,
    ) -> None:
        super().__init__()
        if light and extra_levels:
            raise ValueError(f"a light PAN has no extra levels, got extra_levels={extra_levels}")
        upsampling: Literal["nearest", "bilinear"] = "bilinear" if light else "nearest"
        self.pyramid = FPN(in_channels, channels, extra_levels, "p5", norm, upsampling)
        if light:
            self.pyramid.output = nn.ModuleList(nn.Identity() for _ in in_channels)
        self.channels = self.pyramid.channels
        steps = 0 if light else len(self.channels) - 1
        self.down = nn.ModuleList(
            conv_norm_act(channels, channels, 3, stride=2, norm=norm, act=False) for _ in range(steps)
        )
        self.output = nn.ModuleList(conv_norm_act(channels, channels, 3, norm=norm, act=False) for _ in range(steps))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map features (B, C_n, H_n, W_n), finest first, to as many plus `extra_levels`, all with `channels`."""
        levels = self.pyramid(features)
        outputs = levels[:1]
        if not self.down:
            for level in levels[1:]:
                size = level.shape[-2:]
                outputs.append(level + F.interpolate(outputs[-1], size=size, mode="bilinear", align_corners=False))
            return outputs
        merged = levels[0]
        for level, down, output in zip(levels[1:], self.down, self.output, strict=True):
            merged = level + down(merged)
            outputs.append(output(merged))
        return outputs
