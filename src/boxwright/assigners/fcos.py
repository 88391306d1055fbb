"""FCOS: a prior answers for the smallest object around it whose sides are as far away as its level is meant for."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor

from boxwright.assigners.blocks import blocks, clean_boxes, no_matches, of_images
from boxwright.assigners.grid import inside_margin
from boxwright.assigners.options import check_options
from boxwright.assigners.regions import covered_by_crowd
from boxwright.assigners.select import Favourites
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["FCOSAssigner"]


@dataclass(frozen=True, slots=True)
class FCOSAssigner:
    """Tian et al. 2019, arXiv:1904.01355, without the later sampling around an object's centre.

    A prior is positive for an object that its centre lies in, if the farthest of the object's four sides is at a
    distance that its level is responsible for. Of several such objects the smallest has it, on ties the one with the
    lowest index. Scores are 1. Priors covered by a crowd region are ignored.

    >>> from boxwright.boxes import PointGenerator
    >>> priors = PointGenerator((16, 32))([(2, 3), (1, 2)])
    >>> boxes = torch.tensor([[0.0, 0, 48, 32], [16, 0, 40, 20]])
    >>> targets = Targets.from_list([{"boxes": boxes, "labels": torch.tensor([1, 2])}])
    >>> FCOSAssigner(bounds=(24,))(priors, targets).gt_index
    tensor([[-1,  1, -1, -1,  0, -1,  0, -1]])

    Attributes:
        bounds: pixels, rising: level i answers for farthest sides from `bounds[i - 1]` to `bounds[i]`, both included;
            the first level from 0; the last level, and those beyond the last bound, for all that are farther.
        margin: pixels by which a centre must lie inside.
        plus_one: boxes are inclusive pixel ranges, so that an area is that of sides x2 - x1 + 1.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    bounds: tuple[float, ...] = (64.0, 128.0, 256.0, 512.0)
    margin: float = 0.01
    plus_one: bool = False
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        if not all(low < high for low, high in pairwise((0.0, *self.bounds))):
            raise ValueError(f"bounds must rise from above 0 at the finest level to the coarsest, got {self.bounds}")

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once; predictions are not looked at.

        Raises:
            ValueError: the priors are on no levels.
        """
        if not priors.levels:
            raise ValueError("FCOSAssigner asks what a prior's level is for: the priors need `levels`, as grids have")
        boxes, offset = clean_boxes(targets.boxes, targets.objects), 1.0 if self.plus_one else 0.0
        covered = covered_by_crowd(priors, targets, self.ignore_threshold, offset=offset)
        if (nothing := no_matches(boxes, covered)) is not None:
            return nothing
        low, high = self._ranges(priors)
        centers = priors.centers.movedim(-1, 0).contiguous().movedim(0, -1)
        sides = boxes[..., 2:] - boxes[..., :2] + offset
        area = (sides[..., 0] * sides[..., 1]).unsqueeze(-1)  # (B, G, 1)
        smallest = Favourites(covered, start=-torch.inf)
        for images, objects in blocks(boxes, len(priors)):
            some, center = boxes[images, objects].unsqueeze(-2), of_images(centers, images).unsqueeze(-3)
            far = _farthest_side(some, center)  # (b, g, L)
            fits = (inside_margin(some, center) > self.margin).logical_and_(far >= low).logical_and_(far <= high)
            smallest.see(torch.where(fits, -area[images, objects], -torch.inf), images, objects)
        found = smallest.value > -torch.inf
        index = smallest.owner.to(torch.int64).where(found, BACKGROUND).masked_fill(covered, IGNORED)
        return Assignment(index, (index >= 0).to(torch.float32))

    def _ranges(self, priors: Priors) -> tuple[Tensor, Tensor]:
        """Distances (L,) from and to which the priors answer."""
        bounds = (0.0, *self.bounds[: len(priors.levels) - 1], torch.inf)
        last = len(bounds) - 2
        parts = [
            [torch.full((level.size,), bound, device=priors.strides.device) for bound in bounds[min(i, last) :][:2]]
            for i, level in enumerate(priors.levels)
        ]
        low, high = (torch.cat(part) for part in zip(*parts, strict=True))
        return low, high


def _farthest_side(boxes: Tensor, centers: Tensor) -> Tensor:
    """Distance in pixels from centres (…, 2) inside boxes (…, 4) to the farthest side; they broadcast."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    x, y = centers.unbind(-1)
    return torch.maximum(torch.maximum(x - x1, x2 - x), torch.maximum(y - y1, y2 - y))
