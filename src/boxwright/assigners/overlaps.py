"""Who overlaps whom most, without a matrix of all objects and all priors."""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from boxwright.assigners.blocks import blocks, clean_boxes, of_images, over_objects
from boxwright.assigners.grid import box_centers
from boxwright.assigners.lattice import Lattice
from boxwright.assigners.select import Favourites, top_k
from boxwright.boxes.iou import box_iou
from boxwright.structures import Level

__all__ = ["EPS", "best_objects", "best_priors", "overlapping_priors"]

EPS: Final = 1e-6  # square pixels, floor of the union
_TINY: Final = 1e-30


def best_objects(
    boxes: Tensor,
    priors: Tensor,
    hidden: Tensor | None = None,
    *,
    levels: tuple[Level, ...] = (),
    claim_from: float | None = None,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Find for every prior the object that it overlaps most, the lowest on ties.

    Args:
        boxes: (B, G, 4) xyxy, clean; what is no object lies far away.
        priors: (L, 4) or (B, L, 4) xyxy.
        hidden: (B, L) bool, priors that overlap nothing.
        levels: the grids of the priors, where they are on grids.
        claim_from: IoU from which an object claims the priors that tie its own best IoU; None: no claims.
        offset: 1 where boxes end at their last pixel.

    Returns:
        Largest IoU, its object (0 where the IoU is 0), and the last object that claims the prior or -1; each (B, L).
    """
    overlaps = _Overlaps.of(boxes, priors, hidden, levels, offset)
    best = Favourites(boxes.new_empty(len(boxes), priors.shape[-2]))
    claimant = torch.zeros_like(best.value)  # counted from 1; 0: nobody
    number = torch.arange(1, boxes.shape[1] + 1, device=boxes.device, dtype=boxes.dtype).unsqueeze(-1)
    for images, objects in blocks(boxes, priors.shape[-2]):
        iou = overlaps.block(images, objects)
        best.see(iou, images, objects)
        if claim_from is not None:
            top = iou.amax(2, keepdim=True)
            claim = number[objects] * ((top > 0) & (top >= claim_from))
            tied = iou.eq_(top).mul_(claim)
            claimant[images].clamp_(min=over_objects(tied))
    value, own, claimant = (overlaps.unsort(found) for found in (best.value, best.owner, claimant.sub_(1)))
    return value, own.to(torch.int64), claimant.to(torch.int64)


def best_priors(
    boxes: Tensor,
    priors: Tensor,
    hidden: Tensor | None = None,
    *,
    offset: float = 0.0,
) -> tuple[Tensor, Tensor]:
    """Find for every object the lowest prior that overlaps it most: IoU and index, both (B, G). As `best_objects`."""
    overlaps = _Overlaps.of(boxes, priors, hidden, (), offset)
    best = torch.zeros(boxes.shape[:2], dtype=boxes.dtype, device=boxes.device)
    index = torch.zeros(boxes.shape[:2], dtype=torch.int64, device=boxes.device)
    for images, objects in blocks(boxes, priors.shape[-2]):
        best[images, objects], index[images, objects] = overlaps.block(images, objects).max(2)
    return best, index


def overlapping_priors(
    boxes: Tensor, priors: Tensor, centers: Tensor, objects: Tensor, k: int, *, offset: float = 0.0
) -> Tensor:
    """Find the k priors that every object overlaps most, of those that overlap alike the nearest, then the lowest.

    Ranked by IoU - d / d_max / 1000 with d the distance of the centres and d_max the largest of any prior and object
    of the image.

    Args:
        boxes: (B, G, 4) xyxy, clean.
        priors: (L, 4) or (B, L, 4) xyxy.
        centers: (L, 2) or (B, L, 2) of the priors, x, y.
        objects: (B, G) bool, which of the boxes are objects.
        k: how many of all L; fewer priors give all there are.
        offset: 1 where boxes end at their last pixel.

    Returns:
        (B, G, min(k, L)) int64, in order.
    """

    def distance(images: slice, some: slice) -> Tensor:
        apart = of_images(centers, images).unsqueeze(-3) - box_centers(boxes[images, some]).unsqueeze(-2)
        return apart.square_().sum(-1).sqrt_()  # (b, g, L)

    every = list(blocks(boxes, priors.shape[-2]))
    farthest = boxes.new_full((len(boxes), 1, 1), _TINY)
    for images, some in every:
        far = distance(images, some).amax(-1, keepdim=True).where(objects[images, some, None], 0)
        farthest[images] = farthest[images].maximum(far.amax(1, keepdim=True))
    found = torch.zeros(*objects.shape, min(k, priors.shape[-2]), dtype=torch.int64, device=objects.device)
    for images, some in every:
        penalty = distance(images, some).div_(farthest[images]).clamp_(max=1).div_(1000)
        iou = box_iou(boxes[images, some], of_images(priors, images), eps=EPS, offset=offset)
        found[images, some] = top_k(_without_sign(iou.sub_(penalty)), k)[1]
    return found


def _without_sign(value: Tensor) -> Tensor:
    """Replace floats from -0.001 to 1 by others >= 0 in the same order, for `top_k`, without rounding."""
    bits = value.to(torch.float32).view(torch.int32)
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).add_(0x3B000000).view(torch.float32)


@dataclass(frozen=True, eq=False, slots=True)
class _Overlaps:
    """IoUs of objects and priors, 0 where a prior is hidden; on grids in the order of the lattice."""

    boxes: Tensor
    priors: Tensor
    hidden: Tensor | None
    area: Tensor  # of the objects (B, G, 1)
    lattice: Lattice | None
    prior_area: Tensor  # (1 or B, 1, L) on a lattice
    offset: float

    @classmethod
    def of(cls, boxes: Tensor, priors: Tensor, hidden: Tensor | None, levels: tuple[Level, ...], offset: float) -> Self:
        area = _area(boxes, offset).unsqueeze(-1)
        if not levels or priors.ndim == 3:
            return cls(boxes, clean_boxes(priors), hidden, area, None, area, offset)
        lattice = Lattice.of(priors, levels)
        prior_area = lattice.areas(offset)
        if hidden is not None:
            visible = lattice.sort((~hidden).to(area.dtype)).unsqueeze(1)
            prior_area = prior_area.clamp_(min=_TINY) / visible  # infinite where hidden, so that the IoU is 0
        return cls(boxes, priors, hidden, area, lattice, prior_area, offset)

    def block(self, images: slice, objects: slice) -> Tensor:
        """IoU of a block, (b, g, L)."""
        some = self.boxes[images, objects]
        if self.lattice is None:
            iou = box_iou(some, of_images(self.priors, images), eps=EPS, offset=self.offset)
            return iou if self.hidden is None else iou.mul_((~self.hidden[images, None]).to(iou.dtype))
        shared = self.lattice.products(*self.lattice.extents(some, self.offset))
        prior_area = self.prior_area if len(self.prior_area) == 1 else self.prior_area[images]
        return shared.div_((self.area[images, objects] + prior_area).sub_(shared).clamp_(min=EPS))

    def unsort(self, per_prior: Tensor) -> Tensor:
        """Bring (B, L) into the order of the priors."""
        return per_prior if self.lattice is None else self.lattice.unsort(per_prior)


def _area(boxes: Tensor, offset: float) -> Tensor:
    width, height = (boxes[..., 2:] - boxes[..., :2] + offset).clamp_(min=0).unbind(-1)
    return width * height
