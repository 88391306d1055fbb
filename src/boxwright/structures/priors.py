"""Where predictions sit."""

from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from torch import Tensor

from boxwright.structures.base import TensorStruct


class Level(NamedTuple):
    """One feature level as a grid: prior `(y * width + x) * per_cell + a` of the level sits in cell (y, x).

    Its centre is at `((x + offset) * stride, (y + offset) * stride)` pixels.
    """

    height: int
    width: int
    per_cell: int
    stride: float
    offset: float = 0.5

    @property
    def size(self) -> int:
        """Number of priors on the level."""
        return self.height * self.width * self.per_cell


@dataclass(frozen=True, eq=False, slots=True)
class Priors(TensorStruct):
    """L anchors or points, levels concatenated from the finest stride to the coarsest, shared by all images.

    Attributes:
        boxes: (L, 4) xyxy in pixels, or (B, L, 4) for proposals, which differ per image. A point's box is its cell.
        centers: (L, 2) or (B, L, 2), x, y in pixels.
        strides: (L,) or (B, L) pixels per cell of the level that a prior belongs to.
        levels: the grids, in order, so that an assigner can use them instead of searching; empty for proposals.
    """

    boxes: Tensor
    centers: Tensor
    strides: Tensor
    levels: tuple[Level, ...] = ()

    def take(self, index: Tensor) -> Self:
        """Return the priors at `index` (B, S) of each image; they lie on no grid any more."""
        pairs = index.unsqueeze(-1)
        if self.boxes.ndim == 2:
            boxes, centers = self.boxes[index], self.centers[index]
        else:
            boxes, centers = (t.gather(1, pairs.expand(-1, -1, t.shape[-1])) for t in (self.boxes, self.centers))
        strides = self.strides[index] if self.strides.ndim == 1 else self.strides.gather(1, index)
        return replace(self, boxes=boxes, centers=centers, strides=strides, levels=())

    def __len__(self) -> int:
        """Return the number of priors per image, L."""
        return self.boxes.shape[-2]
