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
        levels: the grids, in order, so that an assigner can use them instead of searching; empty for proposals, which
            count as one level.

    Raises:
        ValueError: the shapes do not fit each other, or the levels do not hold L priors.
    """

    boxes: Tensor
    centers: Tensor
    strides: Tensor
    levels: tuple[Level, ...] = ()

    def __post_init__(self) -> None:
        if self.centers.shape[-2:] != (len(self), 2) or self.strides.shape[-1:] != (len(self),):
            found = ", ".join(str(tuple(tensor.shape)) for tensor in (self.boxes, self.centers, self.strides))
            raise ValueError(f"boxes, centers and strides must be (…, L, 4), (…, L, 2) and (…, L), got {found}")
        if self.levels and sum(level.size for level in self.levels) != len(self):
            sizes = " + ".join(str(level.size) for level in self.levels)
            raise ValueError(f"levels of {sizes} priors do not fit boxes of shape {tuple(self.boxes.shape)}")

    def take(self, index: Tensor) -> Self:
        """Return the priors at `index` (B, S) of each image; they lie on no grid any more."""
        return replace(
            self,
            boxes=_rows(self.boxes, index),
            centers=_rows(self.centers, index),
            strides=_rows(self.strides.unsqueeze(-1), index).squeeze(-1),
            levels=(),
        )

    def __len__(self) -> int:
        """Return the number of priors per image, L."""
        return self.boxes.shape[-2]


def _rows(table: Tensor, index: Tensor) -> Tensor:
    """Rows (B, S, n) of a table (L, n) shared by the images, or (B, L, n) of their own."""
    return table[index] if table.ndim == 2 else table.gather(1, index.unsqueeze(-1).expand(-1, -1, table.shape[-1]))
