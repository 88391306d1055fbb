"""Regions to ignore: which priors lie in a crowd."""

from typing import Final

import torch
from torch import Tensor

from boxwright.assigners.blocks import blocks, clean_boxes, of_images, over_objects
from boxwright.assigners.lattice import Lattice
from boxwright.structures import Level, Priors, Targets

__all__ = ["covered_by_crowd"]

_TINY: Final = 1e-6  # square pixels


def covered_by_crowd(
    priors: Priors,
    targets: Targets,
    threshold: float | None,
    *,
    of_crowd: bool = False,
    offset: float = 0.0,
) -> Tensor:
    """Tell which priors lie in a region to ignore: intersection over the prior's area above `threshold`.

    Args:
        priors: L boxes, shared or per image.
        targets: the crowd regions of B images.
        threshold: share of a prior that one region must cover; None: nothing is ignored.
        of_crowd: compare the share of the region instead.
        offset: 1 where boxes end at their last pixel.

    Returns:
        (B, L) bool.
    """
    if threshold is None or not targets.has_crowd or len(priors) == 0:
        return torch.zeros(len(targets), len(priors), dtype=torch.bool, device=targets.crowd.device)
    crowd, anchors = clean_boxes(targets.boxes, targets.crowd), priors.boxes
    if priors.levels and anchors.ndim == 2:
        sizes = [level.size for level in priors.levels]
        grids = zip(priors.levels, anchors.split(sizes), strict=True)
        shares = [_share_of_grid(crowd, level, part, of_crowd, offset) for level, part in grids if level.size]
        return torch.cat(shares, dim=1) > threshold
    return _share_of_any(crowd, clean_boxes(anchors), of_crowd, offset) > threshold


def _share_of_grid(crowd: Tensor, level: Level, anchors: Tensor, of_crowd: bool, offset: float) -> Tensor:
    """Largest share of the anchors of one level (or of a region) that a region covers: (B, level.size)."""
    lattice = Lattice.of(anchors, (level,))
    widths, heights = lattice.extents(crowd, offset)
    area = _area(crowd, offset).unsqueeze(-1)
    shared = crowd.new_zeros(len(crowd), level.size)
    for images, objects in blocks(crowd, level.size):
        part = lattice.products(widths[images, objects], heights[images, objects])
        part = part.div_(area[images, objects]) if of_crowd else part
        shared[images].clamp_(min=over_objects(part))
    return lattice.unsort(shared if of_crowd else shared.div_(lattice.areas(offset)[0].clamp_(min=_TINY)))


def _share_of_any(crowd: Tensor, anchors: Tensor, of_crowd: bool, offset: float) -> Tensor:
    """Largest share of each anchor (or of a region) that a region covers: (B, L)."""
    area = _area(crowd, offset).unsqueeze(-1)
    shared = crowd.new_zeros(len(crowd), anchors.shape[-2])
    for images, objects in blocks(crowd, anchors.shape[-2]):
        some, priors = crowd[images, objects].unsqueeze(-2), of_images(anchors, images).unsqueeze(-3)
        low, high = torch.maximum(some[..., :2], priors[..., :2]), torch.minimum(some[..., 2:], priors[..., 2:])
        part = (high - low + offset).clamp_(min=0).prod(-1)  # (b, g, L)
        part = part.div_(area[images, objects]) if of_crowd else part
        shared[images].clamp_(min=over_objects(part))
    return shared if of_crowd else shared.div_(_area(anchors, offset))


def _area(boxes: Tensor, offset: float) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return ((x2 - x1 + offset) * (y2 - y1 + offset)).clamp(min=_TINY)
