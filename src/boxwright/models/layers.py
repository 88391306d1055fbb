"""Layers and small functions that necks and heads share."""

import math
from collections.abc import Sequence
from typing import Literal

from torch import Tensor, nn

__all__ = [
    "Norm",
    "conv_norm_act",
    "conv_tower",
    "flatten_level",
    "group_norm",
    "init_conv",
    "init_xavier",
    "one_prior_per_cell",
    "prior_bias",
    "separable_conv",
    "shared_width",
]

Norm = Literal["none", "bn", "gn"]


def group_norm(channels: int, groups: int = 32) -> nn.GroupNorm:
    """Group norm with 32 groups, or as many as divide the channels."""
    return nn.GroupNorm(math.gcd(groups, channels), channels)


def conv_norm_act(
    in_channels: int,
    out_channels: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    norm: Norm = "none",
    act: bool = True,
    slope: float = 0.0,
) -> nn.Sequential:
    """Build a padded convolution with an optional norm and (leaky) ReLU; it has a bias where it has no norm."""
    conv = nn.Conv2d(in_channels, out_channels, kernel, stride, padding=kernel // 2, groups=groups, bias=norm == "none")
    layers: list[nn.Module] = [conv]
    if norm != "none":
        layers.append(nn.BatchNorm2d(out_channels) if norm == "bn" else group_norm(out_channels))
    if act:
        layers.append(nn.LeakyReLU(slope, inplace=True) if slope else nn.ReLU(inplace=True))
    return nn.Sequential(*layers)


def separable_conv(in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> nn.Sequential:
    """Build a depthwise and a 1×1 convolution, each with batch norm and a leaky ReLU."""
    depthwise = conv_norm_act(in_channels, in_channels, kernel, stride=stride, groups=in_channels, norm="bn", slope=0.1)
    return nn.Sequential(depthwise, conv_norm_act(in_channels, out_channels, 1, norm="bn", slope=0.1))


def conv_tower(in_channels: int, channels: int, convs: int, norm: Norm) -> nn.Sequential:
    """Build 3×3 convolutions with norm and ReLU, one after the other; none of them passes the input on."""
    widths = (channels if index else in_channels for index in range(convs))
    return nn.Sequential(*(conv_norm_act(width, channels, 3, norm=norm) for width in widths))


def shared_width(in_channels: Sequence[int]) -> int:
    """Channels of all levels, for layers that the levels share.

    Raises:
        ValueError: the levels differ.
    """
    if len(set(in_channels)) != 1:
        raise ValueError(
            f"all levels share its convolutions, so they must have equally many channels, got {[*in_channels]}"
        )
    return in_channels[0]


def one_prior_per_cell(priors_per_cell: int) -> None:
    """Refuse several priors per cell, for heads that predict one point or square in each.

    Raises:
        ValueError: there are several.
    """
    if priors_per_cell != 1:
        raise ValueError(f"this head has one prior per cell, got priors_per_cell={priors_per_cell}")


def flatten_level(output: Tensor, size: int) -> Tensor:
    """Reorder a convolution's output (B, A * size, H, W) into (B, H * W * A, size), the order of the priors."""
    images, channels, height, width = output.shape
    return output.permute(0, 2, 3, 1).reshape(images, height * width * (channels // size), size)


def prior_bias(probability: float) -> float:
    """Bias whose sigmoid is the given probability."""
    return -math.log((1 - probability) / probability)


def init_conv(module: nn.Module, std: float = 0.01) -> None:
    """Draw the convolutions inside a head from a narrow normal distribution, as RetinaNet and its descendants do."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.normal_(layer.weight, std=std)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def init_xavier(module: nn.Module) -> None:
    """Draw the convolutions of a module uniformly by their fan-in and fan-out (Glorot & Bengio 2010)."""
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.xavier_uniform_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
