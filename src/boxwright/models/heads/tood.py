"""TOOD's task-aligned head."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from boxwright.models.heads.quality import product_logit
from boxwright.models.layers import (
    conv_norm_act,
    flatten_level,
    init_conv,
    one_prior_per_cell,
    prior_bias,
    shared_width,
)
from boxwright.structures import Predictions

__all__ = ["TOODHead"]

Sampling = Literal["bilinear", "paddle"]


class TOODHead(nn.Module):
    """One stack of convolutions serves both tasks; each picks its layers, then both are aligned in space.

    Layer attention weighs the stack for each task; a probability map multiplies the class scores (`logits` are the
    logits of √(σ(class) · σ(map))); each side of a box is read where learned offsets point. Parameters are distances
    to the four sides in strides, for `DistanceCoder`. Feng et al. 2021, arXiv:2108.07755.

    Args:
        in_channels: channels of each level (all equal).
        num_classes: C, without a background class.
        priors_per_cell: 1, one point or square per cell.
        convs: convolutions of the stack.
        channels: their width.
        anchor_scale: None predicts distances (anchor-free); else deltas, with standard deviations 0.1 and 0.2, of a
            square of this many strides.
        offset: where in its cell a prior sits, as in the generator of the priors.
        sampling: how offsets are read. "bilinear": (dy, dx) in cells, zero outside the map. "paddle": (dx, dy), moved
            into the map; there no offset does not mean no change, because the map's corners are taken as its centres.
        prior_probability: score of every class at the start.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        num_classes: int,
        priors_per_cell: int = 1,
        convs: int = 6,
        channels: int = 256,
        anchor_scale: float | None = None,
        offset: float = 0.0,
        sampling: Sampling = "bilinear",
        prior_probability: float = 0.01,
    ) -> None:
        super().__init__()
        one_prior_per_cell(priors_per_cell)
        self.anchor_scale = anchor_scale
        self.offset = offset
        self.sampling = sampling
        widths = [shared_width(in_channels), *[channels] * convs]
        self.stack = nn.ModuleList(conv_norm_act(before, after, 3, norm="gn") for before, after in pairwise(widths))
        self.class_features = _LayerAttention(channels, convs)
        self.box_features = _LayerAttention(channels, convs)
        self.class_logits = nn.Conv2d(channels, num_classes, 3, padding=1)
        self.box_params = nn.Conv2d(channels, 4, 3, padding=1)
        self.probability = _squeezed(channels * convs, channels // 4, 1)
        self.offsets = _squeezed(channels * convs, channels // 4, 4 * 2)
        self.scales = nn.Parameter(torch.ones(len(in_channels)))
        init_conv(self)
        for layer in (self.class_logits, self.probability[-1]):
            nn.init.constant_(layer.bias, prior_bias(prior_probability))  # type: ignore[arg-type]
        # the published deviations: layers weigh alike at first, and boxes are read nearly where they are predicted
        for narrow in (self.class_features.attention, self.box_features.attention, self.offsets):
            init_conv(narrow, std=0.001)

    def forward(self, features: list[Tensor]) -> Predictions:
        """Map features (B, C_in, H_n, W_n), one per level, to predictions for all L priors."""
        logits, params = [], []
        for feature, scale in zip(features, self.scales, strict=True):
            layers = self._interact(feature)
            pooled = layers.mean(dim=(2, 3), keepdim=True)
            score = product_logit(
                self.class_logits(self.class_features(layers, pooled)), self.probability(layers), power=0.5
            )
            sides = self._sides(self.box_params(self.box_features(layers, pooled)).float(), scale)
            moved = _sample(sides, self.offsets(layers).float(), self.sampling)
            logits.append(flatten_level(score, score.shape[1]))
            params.append(flatten_level(self._distances(moved), 4))
        return Predictions(torch.cat(logits, dim=1), torch.cat(params, dim=1))

    def _interact(self, feature: Tensor) -> Tensor:
        """Concatenate the outputs of all convolutions of the stack: (B, convs · channels, H, W)."""
        outputs = []
        for conv in self.stack:
            feature = conv(feature)
            outputs.append(feature)
        return torch.cat(outputs, dim=1)

    def _sides(self, raw: Tensor, scale: Tensor) -> Tensor:
        """Decode (B, 4, H, W) into x1, y1, x2, y2 in cells, by the level's learned scale."""
        center = _cells(raw) + self.offset
        if self.anchor_scale is None:
            low, high = (scale * raw.clamp(max=20).exp()).chunk(2, dim=1)
            return torch.cat([center - low, center + high], dim=1)
        shift, growth = (scale * raw).chunk(2, dim=1)
        center = center + 0.1 * shift * self.anchor_scale
        half = self.anchor_scale * (0.2 * growth).clamp(-4.135, 4.135).exp() / 2  # ln(1000 / 16)
        return torch.cat([center - half, center + half], dim=1)

    def _distances(self, sides: Tensor) -> Tensor:
        """Distances (B, 4, H, W) in strides from the priors to the sides of their boxes."""
        center = _cells(sides) + self.offset
        low, high = sides.chunk(2, dim=1)
        return torch.cat([center - low, high - center], dim=1)


class _LayerAttention(nn.Module):
    """Weighs the layers of the stack by what they hold on average, then mixes them into `channels`."""

    def __init__(self, channels: int, layers: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(
            nn.Conv2d(channels * layers, max(channels // 8, 1), 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(max(channels // 8, 1), layers, 1),
            nn.Sigmoid(),
        )
        self.mix = conv_norm_act(channels * layers, channels, 1, norm="gn")

    def forward(self, layers: Tensor, pooled: Tensor) -> Tensor:
        """Mix (B, layers · channels, H, W), of which `pooled` (…, 1, 1) is the mean, into (B, channels, H, W)."""
        weight = self.attention(pooled)  # (B, layers, 1, 1)
        mixed: Tensor = self.mix(layers * weight.repeat_interleave(layers.shape[1] // weight.shape[1], dim=1))
        return mixed


def _squeezed(channels: int, hidden: int, out: int) -> nn.Sequential:
    """Build a 1×1 and a 3×3 convolution with a ReLU between."""
    return nn.Sequential(nn.Conv2d(channels, hidden, 1), nn.ReLU(inplace=True), nn.Conv2d(hidden, out, 3, padding=1))


def _cells(like: Tensor) -> Tensor:
    """Column and row of every cell of a map, (2, H, W) float32."""
    height, width = like.shape[-2:]
    y = torch.arange(height, dtype=torch.float32, device=like.device)
    x = torch.arange(width, dtype=torch.float32, device=like.device)
    return torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1])


def _sample(maps: Tensor, offsets: Tensor, sampling: Sampling) -> Tensor:
    """Read each of the maps (B, 4, H, W) bilinearly at its own offsets (B, 8, H, W) in cells."""
    images, sides, height, width = maps.shape
    offset = offsets.reshape(images * sides, 2, height, width)
    if sampling == "paddle":
        x, y = (_cells(maps) + 0.5 + offset).unbind(1)  # corners of the map at -1 and 1
        grid = torch.stack([2 * x / width - 1, 2 * y / height - 1], dim=-1).clamp(-1, 1)
    else:
        x, y = (_cells(maps) + offset.flip(1)).unbind(1)
        grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    sampled = functional.grid_sample(
        maps.reshape(images * sides, 1, height, width),
        grid,
        padding_mode="zeros",
        align_corners=sampling == "paddle",
    )
    return sampled.view(images, sides, height, width)
