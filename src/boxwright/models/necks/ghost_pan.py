"""Path aggregation by ghost bottlenecks."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from boxwright.models.layers import conv_norm_act, separable_conv

__all__ = ["GhostPAN"]


class GhostPAN(nn.Module):
    """Path aggregation for small devices: levels are concatenated and mixed by a ghost bottleneck, both ways.

    RangiLyu, "NanoDet-Plus", 2021 (no paper; github.com/RangiLyu/nanodet), with the bottlenecks of Han et al. 2020,
    arXiv:1911.11907.

    Args:
        in_channels: channels of the backbone's features, finest first.
        channels: channels of every output level.
        extra_levels: further levels, each by depthwise convolutions of the coarsest input and of the last output.
        kernel: size of the depthwise convolutions.
    """

    def __init__(self, in_channels: Sequence[int], channels: int = 96, extra_levels: int = 1, kernel: int = 5) -> None:
        super().__init__()
        steps = len(in_channels) - 1
        self.lateral = nn.ModuleList(conv_norm_act(c, channels, 1, norm="bn", slope=0.1) for c in in_channels)
        self.up = nn.ModuleList(_GhostBottleneck(2 * channels, channels, kernel) for _ in range(steps))
        self.shrink = nn.ModuleList(separable_conv(channels, channels, kernel, stride=2) for _ in range(steps))
        self.down = nn.ModuleList(_GhostBottleneck(2 * channels, channels, kernel) for _ in range(steps))
        self.extra_input, self.extra_output = (
            nn.ModuleList(separable_conv(channels, channels, kernel, stride=2) for _ in range(extra_levels))
            for _ in range(2)
        )
        self.channels = [channels] * (len(in_channels) + extra_levels)

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Map features (B, C_n, H_n, W_n), finest first, to as many plus `extra_levels`, all with `channels`."""
        lateral = [layer(feature) for layer, feature in zip(self.lateral, features, strict=True)]
        merged = lateral[-1:]  # finest first, growing at the front
        for fine, mix in zip(reversed(lateral[:-1]), self.up, strict=True):
            coarse = F.interpolate(merged[0], size=fine.shape[-2:], mode="bilinear", align_corners=False)
            merged.insert(0, mix(torch.cat([coarse, fine], dim=1)))
        outputs = merged[:1]
        for level, shrink, mix in zip(merged[1:], self.shrink, self.down, strict=True):
            outputs.append(mix(torch.cat([shrink(outputs[-1]), level], dim=1)))
        coarsest = lateral[-1]
        for of_input, of_output in zip(self.extra_input, self.extra_output, strict=True):
            coarsest = of_input(coarsest)
            outputs.append(coarsest + of_output(outputs[-1]))
        return outputs


class _GhostBottleneck(nn.Module):
    """Two ghost modules and a depthwise separable shortcut."""

    def __init__(self, in_channels: int, channels: int, kernel: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(_Ghost(in_channels, channels, act=True), _Ghost(channels, channels, act=False))
        self.shortcut = nn.Sequential(
            conv_norm_act(in_channels, in_channels, kernel, groups=in_channels, norm="bn", act=False),
            conv_norm_act(in_channels, channels, 1, norm="bn", act=False),
        )

    def forward(self, feature: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, channels, H, W)."""
        mixed: Tensor = self.layers(feature) + self.shortcut(feature)
        return mixed


class _Ghost(nn.Module):
    """Half of the channels by a 1×1 convolution, the other half from those by a cheap depthwise one."""

    def __init__(self, in_channels: int, channels: int, *, act: bool) -> None:
        super().__init__()
        self.channels = channels
        half = math.ceil(channels / 2)
        self.primary = conv_norm_act(in_channels, half, 1, norm="bn", act=act, slope=0.1)
        self.cheap = conv_norm_act(half, half, 3, groups=half, norm="bn", act=act, slope=0.1)

    def forward(self, feature: Tensor) -> Tensor:
        """Map (B, C_in, H, W) to (B, channels, H, W)."""
        primary = self.primary(feature)
        return torch.cat([primary, self.cheap(primary)], dim=1)[:, : self.channels]
