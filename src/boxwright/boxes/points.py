"""Points on the grids of a feature pyramid, for anchor-free heads."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from boxwright.boxes.anchors import AnchorGenerator
from boxwright.structures import Priors

__all__ = ["PointGenerator"]


@dataclass(frozen=True, slots=True)
class PointGenerator:
    """One point per cell at `((x + offset) · stride, (y + offset) · stride)`; its box is one stride wide around it.

    >>> PointGenerator((8,))([(1, 2)]).centers
    tensor([[ 4.,  4.],
            [12.,  4.]])

    Attributes:
        strides: pixels per cell, one per level, in the order of the features.
        offset: where in its cell a point lies, as a share of the stride.
    """

    strides: tuple[float, ...]
    offset: float = 0.5

    @property
    def per_cell(self) -> tuple[int, ...]:
        """Number of points per cell, one per level."""
        return (1,) * len(self.strides)

    def __call__(self, sizes: Sequence[tuple[int, int]], device: torch.device | str = "cpu") -> Priors:
        """Return the priors of feature maps of the given (height, width).

        Raises:
            ValueError: the number of sizes is not the number of strides.
        """
        return AnchorGenerator.square(self.strides, scale=1, offset=self.offset)(sizes, device)
