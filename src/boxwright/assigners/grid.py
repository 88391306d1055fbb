"""What the grid of a level knows without a search: the nearest centres, and whether a centre lies inside an object."""

import torch
from torch import Tensor

from boxwright.assigners.blocks import blocks, of_images
from boxwright.assigners.select import rising, top_k, unpack_rising
from boxwright.structures import Level, Priors

__all__ = ["box_centers", "inside_margin", "nearest_priors"]


def nearest_priors(priors: Priors, centers: Tensor, k: int, *, per_cell: bool = False) -> Tensor:
    """Find the k priors of each level whose centres are nearest to each object's centre, the lowest index on ties.

    Priors without levels (proposals) count as one level, which is searched.

    Args:
        priors: L priors.
        centers: (B, G, 2) x, y in pixels.
        k: how many per level; a smaller level gives all it has.
        per_cell: k cells instead, with all their priors.

    Returns:
        (B, G, K) int64, level after level, each by rising distance.
    """
    if not priors.levels:
        return _search(priors, centers, k)
    parts, start = [], 0
    for level in priors.levels:
        wanted = min(k * level.per_cell if per_cell else k, level.size)
        cells = _nearest_cells(level, centers, -(-wanted // level.per_cell))
        each = torch.arange(level.per_cell, device=cells.device)
        parts.append((cells.unsqueeze(-1) * level.per_cell + each).flatten(-2)[..., :wanted] + start)
        start += level.size
    return torch.cat(parts, dim=-1)


def _nearest_cells(level: Level, centers: Tensor, k: int) -> Tensor:
    """Index y · width + x of the k nearest cells of a grid, (B, G, k).

    Let column i and row j be the i-th and j-th nearest on their axes. (i + 1)(j + 1) cells, this one included, are no
    farther than cell (i, j), so that only cells with (i + 1)(j + 1) <= k can be among the k nearest: about k ln k.
    """
    column, dx = _nearest_on_axis(centers[..., 0], level.width, level, k)  # (B, G, <= k)
    row, dy = _nearest_on_axis(centers[..., 1], level.height, level, k)
    shares = [(slice(i, i + 1), slice(k // (i + 1))) for i in range(column.shape[-1])]
    distance = torch.cat([dx[..., i] + dy[..., j] for i, j in shares], dim=-1)
    cell = torch.cat([column[..., i] + row[..., j] * level.width for i, j in shares], dim=-1)
    return unpack_rising(rising(distance, cell).topk(k, largest=False).values)[1]


def _nearest_on_axis(center: Tensor, size: int, level: Level, k: int) -> tuple[Tensor, Tensor]:
    """Indices and squared distances in pixels of the nearest grid lines of one axis, (B, G, min(k, size)) rising."""
    window = min(k + 2, size)
    middle = (center / level.stride - level.offset).clamp(-1.0, size).round().to(torch.int64)
    first = (middle - window // 2).clamp(0, size - window)
    line = first.unsqueeze(-1) + torch.arange(window, device=center.device)
    distance = ((line + level.offset) * level.stride - center.unsqueeze(-1)).square()
    distance, line = unpack_rising(rising(distance, line).topk(min(k, size), largest=False).values)
    return line, distance


def _search(priors: Priors, centers: Tensor, k: int) -> Tensor:
    k = min(k, len(priors))
    nearest = torch.empty(*centers.shape[:2], k, dtype=torch.int64, device=centers.device)
    for images, objects in blocks(centers, len(priors)):
        offset = of_images(priors.centers, images).unsqueeze(-3) - centers[images, objects].unsqueeze(-2)
        nearest[images, objects] = top_k(offset.square().sum(-1), k, largest=False)[1]  # (b, g, k)
    return nearest


def box_centers(boxes: Tensor) -> Tensor:
    """Middle of boxes (…, 4) xyxy: (…, 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def inside_margin(boxes: Tensor, centers: Tensor) -> Tensor:
    """Distance in pixels from centres (…, 2) to the nearest side of boxes (…, 4), negative outside; they broadcast."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    x, y = centers.unbind(-1)
    margin = torch.minimum(x - x1, x2 - x)
    return torch.minimum(margin, torch.minimum(y - y1, y2 - y))
