"""Priors on grids: widths of intersections depend on the column only and heights on the row only."""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from boxwright.assigners.blocks import clean_boxes
from boxwright.structures import Level

__all__ = ["Lattice"]


@dataclass(frozen=True, eq=False, slots=True)
class Lattice:
    """L priors as columns and rows, so that intersections are outer products; in the order level, anchor, y, x.

    Attributes:
        columns: (Σ anchors · width, 4) boxes of every level's first row, by anchor.
        rows: (Σ anchors · height, 4) boxes of every level's first column, by anchor.
        levels: the grids that have priors.
    """

    columns: Tensor
    rows: Tensor
    levels: tuple[Level, ...]

    @classmethod
    def of(cls, priors: Tensor, levels: tuple[Level, ...]) -> Self:
        """Take apart the boxes (L, 4) of priors on these grids, and clean them (far fewer than all boxes)."""
        levels = tuple(level for level in levels if level.size)
        parts = priors.split([level.size for level in levels])
        grids = [
            part.unflatten(0, (level.height, level.width, level.per_cell))
            for level, part in zip(levels, parts, strict=True)
        ]
        columns = torch.cat([grid[0].transpose(0, 1).flatten(0, 1) for grid in grids])
        rows = torch.cat([grid[:, 0].transpose(0, 1).flatten(0, 1) for grid in grids])
        return cls(clean_boxes(columns), clean_boxes(rows), levels)

    def extents(self, boxes: Tensor, offset: float = 0.0) -> tuple[Tensor, Tensor]:
        """Widths shared by (b, g, 4) boxes and columns, heights shared by boxes and rows: (b, g, columns or rows)."""
        return _extent(boxes, self.columns, 0, offset), _extent(boxes, self.rows, 1, offset)

    def products(self, widths: Tensor, heights: Tensor) -> Tensor:
        """Multiply what `extents` found: the area that each box shares with each prior, (b, g, L) in this order."""
        by_column = widths.split([level.per_cell * level.width for level in self.levels], dim=-1)
        by_row = heights.split([level.per_cell * level.height for level in self.levels], dim=-1)
        parts = [
            height.unflatten(-1, (level.per_cell, level.height, 1))
            * width.unflatten(-1, (level.per_cell, 1, level.width))
            for level, width, height in zip(self.levels, by_column, by_row, strict=True)
        ]
        return torch.cat([part.flatten(2) for part in parts], dim=-1) if len(parts) > 1 else parts[0].flatten(2)

    def areas(self, offset: float = 0.0) -> Tensor:
        """Areas of the priors, (1, 1, L) in this order."""
        widths = (self.columns[:, 2] - self.columns[:, 0] + offset).clamp_(min=0)
        heights = (self.rows[:, 3] - self.rows[:, 1] + offset).clamp_(min=0)
        return self.products(widths[None, None], heights[None, None])

    def sort(self, per_prior: Tensor) -> Tensor:
        """Bring what priors have (…, L) into this order."""
        parts = [
            part.unflatten(-1, (level.height, level.width, level.per_cell)).movedim(-1, -3).flatten(-3)
            for level, part in self._by_level(per_prior)
        ]
        return torch.cat(parts, dim=-1)

    def unsort(self, per_prior: Tensor) -> Tensor:
        """Bring back into the order of the priors."""
        parts = [
            part.unflatten(-1, (level.per_cell, level.height, level.width)).movedim(-3, -1).flatten(-3)
            for level, part in self._by_level(per_prior)
        ]
        return torch.cat(parts, dim=-1)

    def _by_level(self, per_prior: Tensor) -> list[tuple[Level, Tensor]]:
        parts = per_prior.split([level.size for level in self.levels], dim=-1)
        return list(zip(self.levels, parts, strict=True))


def _extent(boxes: Tensor, lines: Tensor, axis: int, offset: float) -> Tensor:
    """Shared extent along an axis of boxes (b, g, 4) and lines (N, 4): (b, g, N)."""
    low, high = (boxes[..., side, None] for side in (axis, axis + 2))
    shared = torch.minimum(high, lines[:, axis + 2]).sub_(torch.maximum(low, lines[:, axis]))
    return (shared.add_(offset) if offset else shared).clamp_(min=0)
