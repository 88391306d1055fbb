"""Box coders: what a head's raw box parameters mean, and what they should have been for a given box.

Every coder is a frozen dataclass with `encode(priors, boxes) -> params` and `decode(priors, params) -> boxes`; boxes
are xyxy in pixels, batched (B, L, 4) or not (L, 4), arithmetic is float32, or float64 where the input is.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from boxwright.boxes.formats import at_least_float32, xyxy_to_cxcywh
from boxwright.structures import Priors

__all__ = ["DeltaCoder", "DistanceCoder", "IntegralCoder", "PointCoder", "YOLOCoder", "YOLOv5Coder"]

_TINY = 1e-6  # pixels: the narrowest side that a logarithm sees


@dataclass(frozen=True, slots=True)
class DeltaCoder:
    """Shift of the centre in prior sizes and logarithm of the size ratio: (dx, dy, dw, dh), then `(d - mean) / std`.

    Girshick et al. 2014, arXiv 1311.2524; SSD's "variances" (0.1, 0.2) are `stds=(0.1, 0.1, 0.2, 0.2)`, detectron's
    "weights" are `1 / stds`. Decoding is the exact inverse of encoding wherever no clamp acts. The first R-CNNs and
    AP-Loss count a box from its first to its last pixel: give such boxes as `(x1, y1, x2 + 1, y2 + 1)`, here and to
    every overlap, and the same numbers come out.

    Attributes:
        means: of the four deltas.
        stds: of the four deltas.
        max_ratio: a decoded side is at most this many times the prior's, so that no logit overflows.
        clamp: "both" also keeps a decoded side above 1 / `max_ratio`, "upper" does not.
        max_shift: largest shift of the centre in pixels; None for no bound.

    >>> priors = Priors(torch.tensor([[0.0, 0.0, 10.0, 10.0]]), torch.tensor([[5.0, 5.0]]), torch.tensor([8.0]))
    >>> DeltaCoder().decode(priors, torch.tensor([[0.5, 0.0, 0.0, 0.0]]))
    tensor([[ 5.,  0., 15., 10.]])
    """

    means: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    stds: tuple[float, float, float, float] = (1.0, 1.0, 1.0, 1.0)
    max_ratio: float = 1000 / 16
    clamp: Literal["both", "upper"] = "both"
    max_shift: float | None = None

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Return the deltas (…, L, 4) that lead from the priors to `boxes` (…, L, 4)."""
        center, size = _center_size(priors.boxes)
        target_center, target_size = _center_size(boxes)
        size = size.clamp(min=_TINY)
        shift = (target_center - center) / size
        growth = (target_size.clamp(min=_TINY) / size).log()
        deltas = torch.cat([shift, growth], dim=-1).unbind(-1)
        scaled = [(d - mean) / std for d, mean, std in zip(deltas, self.means, self.stds, strict=True)]
        return torch.stack(scaled, dim=-1)

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Return the boxes (…, L, 4) of `params` (…, L, 4), or (…, L, C, 4) of class-specific `params` (…, L, 4C)."""
        center, size = _center_size(priors.boxes)
        params = at_least_float32(params)
        if params.shape[-1] != 4:
            params = params.unflatten(-1, (-1, 4))
            center, size = center.unsqueeze(-2), size.unsqueeze(-2)
        # column by column: a tensor of the constants would be copied to the device at every call
        columns = zip(params.unbind(-1), self.means, self.stds, strict=True)
        deltas = torch.stack([column * std + mean for column, mean, std in columns], dim=-1)
        shift = deltas[..., :2] * size
        if self.max_shift is not None:
            shift = shift.clamp(-self.max_shift, self.max_shift)
        bound = math.log(self.max_ratio)
        growth = deltas[..., 2:].clamp(min=-bound if self.clamp == "both" else None, max=bound)
        half = size * growth.exp() / 2
        center = center + shift
        return torch.cat([center - half, center + half], dim=-1)


@dataclass(frozen=True, slots=True)
class DistanceCoder:
    """Distances from a prior's centre to the sides, (left, top, right, bottom). Tian et al. 2019, arXiv 1904.01355.

    Attributes:
        normalize: distances count in strides instead of pixels.
        max_distance: encoded distances are clamped to [0, max_distance - margin]; None leaves them, negative ones too.
        margin: keeps a clamped distance below the last bin of a distribution.
    """

    normalize: bool = True
    max_distance: float | None = None
    margin: float = 0.1

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Return the distances (…, L, 4) from the priors' centres to the sides of `boxes` (…, L, 4)."""
        low, high = at_least_float32(boxes).split(2, dim=-1)
        center, stride = _center_stride(priors)
        distances = torch.cat([center - low, high - center], dim=-1)
        if self.normalize:
            distances = distances / stride
        if self.max_distance is not None:
            distances = distances.clamp(0, self.max_distance - self.margin)
        return distances

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Return the boxes (…, L, 4) whose sides lie at the distances `params` (…, L, 4)."""
        center, stride = _center_stride(priors)
        distances = at_least_float32(params)
        if self.normalize:
            distances = distances * stride
        low, high = distances.split(2, dim=-1)
        return torch.cat([center - low, center + high], dim=-1)


@dataclass(frozen=True, slots=True)
class IntegralCoder:
    """Distances in strides as the mean of a distribution over 0, 1, …, `reg_max`. Li et al. 2020, arXiv 2006.04388.

    The parameters are logits, the `reg_max + 1` bins of the left side first, then top, right, bottom.

    Attributes:
        reg_max: the largest distance.
        margin: keeps an encoded distance below the last bin.
    """

    reg_max: int = 16
    margin: float = 0.1

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Return the distances (…, L, 4) in strides that the distributions should mean, in [0, reg_max - margin]."""
        return DistanceCoder(max_distance=self.reg_max, margin=self.margin).encode(priors, boxes)

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Return the boxes (…, L, 4) that the logits `params` (…, L, 4·(reg_max + 1)) mean."""
        return DistanceCoder().decode(priors, self.distances(params))

    def distances(self, params: Tensor) -> Tensor:
        """Return the expected distances (…, 4) in strides of the logits (…, 4·(reg_max + 1))."""
        probability = at_least_float32(params).unflatten(-1, (4, self.reg_max + 1)).softmax(dim=-1)
        bins = torch.arange(self.reg_max + 1, dtype=probability.dtype, device=params.device)
        # no product of matrices: autocast, and TF32 on a GPU, would round it
        return torch.sum(probability * bins, dim=-1)


@dataclass(frozen=True, slots=True)
class YOLOCoder:
    """YOLOv2 and v3: the centre within its cell through a sigmoid, the size as a power of e times the anchor's.

    Redmon & Farhadi 2017, arXiv 1612.08242, and 2018, arXiv 1804.02767. Their squared error compares
    `activate(params)` with `activate(encode(priors, boxes))`: (x, y) in 0..1 of the cell, (w, h) logarithms.

    Attributes:
        max_ratio: a decoded side is at most this many times the anchor's, so that no logit overflows.
        margin: an encoded centre keeps this distance from 0 and 1, so that its logit is finite.
    """

    max_ratio: float = 1000.0
    margin: float = 1e-6

    def activate(self, params: Tensor) -> Tensor:
        """Return (σ(x), σ(y), w, h) of `params` (…, 4)."""
        position, growth = at_least_float32(params).split(2, dim=-1)
        return torch.cat([position.sigmoid(), growth], dim=-1)

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Return the parameters (…, L, 4) of `boxes` (…, L, 4), whose centres should lie in the priors' cells."""
        position, ratio = _in_cell(priors, boxes)
        return torch.cat([position.logit(self.margin), ratio.clamp(min=_TINY).log()], dim=-1)

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Return the boxes (…, L, 4) of `params` (…, L, 4)."""
        position, growth = self.activate(params).split(2, dim=-1)
        return _from_cell(priors, position, growth.clamp(max=math.log(self.max_ratio)).exp())


@dataclass(frozen=True, slots=True)
class YOLOv5Coder:
    """YOLOv5: the centre up to half a cell outside its cell, the size up to 4 anchors, all through sigmoids.

    Jocher et al. 2020 (no paper): centre 2σ - 0.5 in cells, size (2σ)² anchors.

    Attributes:
        margin: an encoded sigmoid keeps this distance from 0 and 1, so that its logit is finite.
    """

    margin: float = 1e-6

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Return the parameters (…, L, 4) of `boxes` (…, L, 4), as far as the priors can reach them."""
        position, ratio = _in_cell(priors, boxes)
        return torch.cat([(position + 0.5) / 2, ratio.clamp(min=0).sqrt() / 2], dim=-1).logit(self.margin)

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Return the boxes (…, L, 4) of `params` (…, L, 4)."""
        position, size = (2 * at_least_float32(params).sigmoid()).split(2, dim=-1)
        return _from_cell(priors, position - 0.5, size.square())


@dataclass(frozen=True, slots=True)
class PointCoder:
    """YOLOX: the centre as a shift from the point and the logarithm of the size, both in strides.

    Ge et al. 2021, arXiv 2107.08430, which places its points at the corner of each cell (offset 0).

    Attributes:
        max_ratio: a decoded side is at most this many strides, so that no logit overflows.
    """

    max_ratio: float = 1e4

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Return the parameters (…, L, 4) of `boxes` (…, L, 4)."""
        center, size = _center_size(boxes)
        point, stride = _center_stride(priors)
        return torch.cat([(center - point) / stride, (size.clamp(min=_TINY) / stride).log()], dim=-1)

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Return the boxes (…, L, 4) of `params` (…, L, 4)."""
        shift, growth = at_least_float32(params).split(2, dim=-1)
        point, stride = _center_stride(priors)
        center = point + shift * stride
        half = growth.clamp(max=math.log(self.max_ratio)).exp() * stride / 2
        return torch.cat([center - half, center + half], dim=-1)


def _center_size(boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return the centres and sizes (…, 2) of xyxy boxes (…, 4)."""
    center, size = xyxy_to_cxcywh(at_least_float32(boxes)).split(2, dim=-1)
    return center, size


def _center_stride(priors: Priors) -> tuple[Tensor, Tensor]:
    """Return the centres (…, L, 2) and strides (…, L, 1) of priors."""
    return at_least_float32(priors.centers), at_least_float32(priors.strides).unsqueeze(-1)


def _in_cell(priors: Priors, boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Return centres in cells from the cell's corner, and sizes in anchors, both (…, L, 2)."""
    center, size = _center_size(boxes)
    _, anchor = _center_size(priors.boxes)
    point, stride = _center_stride(priors)
    return (center - point) / stride + 0.5, size / anchor.clamp(min=_TINY)


def _from_cell(priors: Priors, position: Tensor, ratio: Tensor) -> Tensor:
    """Return the boxes (…, L, 4) with the given centres in cells and sizes in anchors; undoes `_in_cell`."""
    _, anchor = _center_size(priors.boxes)
    point, stride = _center_stride(priors)
    center = point + (position - 0.5) * stride
    half = ratio * anchor / 2
    return torch.cat([center - half, center + half], dim=-1)
