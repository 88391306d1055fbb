"""The second stage: features of every proposal, and what they say about it."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchvision.ops import roi_align

from boxwright.models.layers import prior_bias
from boxwright.structures import Predictions

__all__ = ["TwoLayerHead", "pool_regions"]


class TwoLayerHead(nn.Module):
    """RoIAlign, two fully connected layers, and per region class logits and box parameters.

    R. Girshick, "Fast R-CNN", 2015, arXiv:1504.08083; RoIAlign from K. He et al. 2017, arXiv:1703.06870; which level a
    region is read from as in T.-Y. Lin et al. 2017, arXiv:1612.03144.

    Args:
        in_channels: channels of the levels that regions are read from (all equal).
        levels: their numbers, finest first; level n has stride 2**n.
        num_classes: C.
        background: whether classes and background are one softmax; then its logit is `extras["background"]`.
        channels: width of both layers.
        pool_size: a region is read as a grid of this side.
        sampling_ratio: bilinear samples per side of a grid cell.
        class_agnostic: one box per region, instead of one per region and class.
        dropout: share of activations dropped in training.
        canonical_size: side in pixels of the regions that are read from level `canonical_level`; half the side is one
            level finer.
        canonical_level: see `canonical_size`.
    """

    def __init__(
        self,
        in_channels: Sequence[int],
        levels: Sequence[int],
        num_classes: int,
        background: bool = True,
        channels: int = 1024,
        pool_size: int = 7,
        sampling_ratio: int = 2,
        class_agnostic: bool = False,
        dropout: float = 0.0,
        canonical_size: float = 224.0,
        canonical_level: int = 4,
    ) -> None:
        super().__init__()
        self.levels = tuple(levels)
        self.background = background
        self.pool_size, self.sampling_ratio = pool_size, sampling_ratio
        self.canonical_size, self.canonical_level = canonical_size, canonical_level
        layers: list[nn.Module] = [nn.Flatten()]
        for width in (in_channels[0] * pool_size**2, channels):
            layers += [nn.Linear(width, channels), nn.ReLU(inplace=True)]
            layers += [nn.Dropout(dropout)] if dropout else []
        self.layers = nn.Sequential(*layers)
        self.class_logits = nn.Linear(channels, num_classes + background)
        self.box_params = nn.Linear(channels, 4 if class_agnostic else 4 * num_classes)
        for layer in self.layers:
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)
        for last, std in ((self.class_logits, 0.01), (self.box_params, 0.001)):
            nn.init.normal_(last.weight, std=std)
            nn.init.zeros_(last.bias)
        if not background:
            nn.init.constant_(self.class_logits.bias, prior_bias(0.01))

    def forward(self, features: list[Tensor], boxes: Tensor) -> Predictions:
        """Read regions.

        Args:
            features: one (B, C_in, H_n, W_n) per level.
            boxes: (B, N, 4) xyxy in pixels.

        Returns:
            Logits (B, N, C) and box parameters (B, N, 4), or (B, N, 4C) by class.
        """
        pooled = pool_regions(
            features,
            [2.0**level for level in self.levels],
            boxes,
            self._level(boxes),
            self.pool_size,
            self.sampling_ratio,
        )
        hidden = self.layers(pooled)
        logits = self.class_logits(hidden).unflatten(0, boxes.shape[:2])
        params = self.box_params(hidden).unflatten(0, boxes.shape[:2])
        if not self.background:
            return Predictions(logits, params)
        return Predictions(logits[..., :-1], params, {"background": logits[..., -1:]})

    def _level(self, boxes: Tensor) -> Tensor:
        """Index (B, N) among the levels from which each region is read."""
        side = (boxes[..., 2:] - boxes[..., :2]).prod(dim=-1).clamp(min=1e-6).sqrt()
        level = self.canonical_level + (side / self.canonical_size + 1e-6).log2().floor()
        return level.clamp(self.levels[0], self.levels[-1]).long() - self.levels[0]


def pool_regions(
    features: Sequence[Tensor], strides: Sequence[float], boxes: Tensor, level: Tensor, size: int, sampling_ratio: int
) -> Tensor:
    """RoIAlign (B · N, C, size, size) of boxes (B, N, 4), each from the feature that `level` (B, N) names."""
    image = (
        torch.arange(boxes.shape[0], device=boxes.device, dtype=boxes.dtype).view(-1, 1, 1).expand(*boxes.shape[:2], 1)
    )
    regions = torch.cat([image, boxes], dim=-1).flatten(0, 1)
    read = [
        lambda rows, feature=feature, scale=1 / stride: roi_align(
            feature, rows, size, scale, sampling_ratio, aligned=True
        )
        for feature, stride in zip(features, strides, strict=True)
    ]
    if len(features) == 1:
        return read[0](regions)
    if torch.compiler.is_compiling():  # a graph knows no number of rows: read everything from every level
        chosen = level.flatten().view(-1, 1, 1, 1)
        everything = read[0](regions)
        for index, align in enumerate(read[1:], start=1):
            everything = torch.where(chosen == index, align(regions), everything)
        return everything
    pooled = features[0].new_zeros(len(regions), features[0].shape[1], size, size)
    for index, align in enumerate(read):
        rows = (level.flatten() == index).nonzero().squeeze(1)
        pooled.index_copy_(0, rows, align(regions[rows]).to(pooled.dtype))
    return pooled
