"""Darknet's layers as modules: what each computes, to the order of channels."""

from collections.abc import Callable
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

__all__ = [
    "ACTIVATIONS",
    "Convolution",
    "GlobalAverage",
    "MaxPool",
    "Reorg",
    "Route",
    "Shortcut",
    "Softmax",
    "Upsample",
]

ACTIVATIONS: Final[dict[str, Callable[[], nn.Module]]] = {
    "linear": nn.Identity,
    "leaky": lambda: nn.LeakyReLU(0.1),
    "relu": nn.ReLU,
    "mish": nn.Mish,
    "swish": nn.SiLU,
    "logistic": nn.Sigmoid,
}


class Convolution(nn.Module):
    """Convolution, batch norm or bias, activation; `conv` and `norm` (None without) are what weight files hold."""

    def __init__(
        self,
        in_channels: int,
        filters: int,
        size: int,
        stride: int,
        padding: int,
        groups: int,
        normalize: bool,
        activation: str,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, filters, size, stride, padding, groups=groups, bias=not normalize)
        # epsilon as in darknet's GPU code, momentum torch's: darknet's 0.01 lags in all but very long trainings
        self.norm = nn.BatchNorm2d(filters, eps=1e-5) if normalize else None
        self.activation = ACTIVATIONS[activation]()

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, filters, H', W')."""
        output = self.conv(input)
        output = output if self.norm is None else self.norm(output)
        activated: Tensor = self.activation(output)
        return activated


class MaxPool(nn.Module):
    """Maximum over windows; the padding, half of it (rounded down) at the left and top, never wins."""

    def __init__(self, size: int, stride: int, padding: int) -> None:
        super().__init__()
        self.size, self.stride, self.before, self.after = size, stride, padding // 2, padding - padding // 2

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, (H + padding - size) // stride + 1, …)."""
        if self.before == self.after and 2 * self.before <= self.size:
            return F.max_pool2d(input, self.size, self.stride, self.before)
        padded = F.pad(input, (self.before, self.after, self.before, self.after), value=-torch.inf)
        return F.max_pool2d(padded, self.size, self.stride)


class GlobalAverage(nn.Module):
    """Mean of every channel."""

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, 1, 1)."""
        return input.mean(dim=(2, 3), keepdim=True)


class Route(nn.Module):
    """Channels of several earlier layers one after the other, or of each the `group`-th of `groups` equal parts."""

    def __init__(self, groups: int = 1, group: int = 0) -> None:
        super().__init__()
        self.groups, self.group = groups, group

    def forward(self, *inputs: Tensor) -> Tensor:
        """Concatenate (B, C_n, H, W)."""
        parts = [input.chunk(self.groups, dim=1)[self.group] for input in inputs] if self.groups > 1 else inputs
        return parts[0] if len(parts) == 1 else torch.cat([*parts], dim=1)


class Shortcut(nn.Module):
    """Sum of the last and an earlier layer, activated."""

    def __init__(self, activation: str) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]()

    def forward(self, input: Tensor, earlier: Tensor) -> Tensor:
        """Add (B, C, H, W) and (B, C, H, W)."""
        activated: Tensor = self.activation(input + earlier)
        return activated


class Reorg(nn.Module):
    """Squares of pixels become channels, in the order that darknet's weights were trained with.

    darknet reads its input as if it had `stride`² fewer channels on a grid that much finer, so that the result is not
    the usual space-to-depth. `reverse` makes a finer grid of fewer channels.
    """

    def __init__(self, stride: int, reverse: bool = False) -> None:
        super().__init__()
        self.stride, self.reverse = stride, reverse

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C s², H / s, W / s), reversed to (B, C / s², H s, W s)."""
        images, channels, height, width = input.shape
        s = self.stride
        if self.reverse:
            parts = input.reshape(images, s, s, channels // s**2, height, width).permute(0, 3, 4, 1, 5, 2)
            return parts.reshape(images, channels // s**2, height * s, width * s)
        parts = input.reshape(images, channels // s**2, height, s, width, s).permute(0, 3, 5, 1, 2, 4)
        return parts.reshape(images, channels * s**2, height // s, width // s)


class Upsample(nn.Module):
    """Every pixel `stride` times in both directions, times `scale`."""

    def __init__(self, stride: int, scale: float = 1.0) -> None:
        super().__init__()
        self.stride, self.scale = stride, scale

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to (B, C, H s, W s)."""
        output = F.interpolate(input, scale_factor=self.stride, mode="nearest")
        return output if self.scale == 1 else output * self.scale


class Softmax(nn.Module):
    """Softmax over all values of an image, or over each of `groups` equal runs of them."""

    def __init__(self, groups: int = 1, temperature: float = 1.0) -> None:
        super().__init__()
        self.groups, self.temperature = groups, temperature

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, H, W) to probabilities of the same shape."""
        runs = input.reshape(len(input), self.groups, -1)
        return (runs / self.temperature).softmax(dim=-1).view_as(input)
