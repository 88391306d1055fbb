"""What the grid of a level knows without a search: the nearest centres, and whether a centre lies inside an object."""

import torch
from torch import Tensor

from boxwright.assigners.blocks import blocks, of_images
from boxwright.assigners.select import rising, top_k, unpack_rising
from boxwright.devices import copies_in_background
from boxwright.structures import Level, Priors
from boxwright.tables import kept

__all__ = ["box_centers", "center_offsets", "inside_margin", "nearest_priors"]


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
    wanted = [min(k * level.per_cell if per_cell else k, level.size) for level in priors.levels]
    most = max(-(-count // level.per_cell) for count, level in zip(wanted, priors.levels, strict=True))
    parts, start = [], 0
    for level, count, cells in zip(priors.levels, wanted, _nearest_cells(priors.levels, centers, most), strict=True):
        each = torch.arange(level.per_cell, device=cells.device)
        parts.append((cells.unsqueeze(-1) * level.per_cell + each).flatten(-2)[..., :count] + start)
        start += level.size
    return torch.cat(parts, dim=-1)


def _nearest_cells(levels: tuple[Level, ...], centers: Tensor, k: int) -> Tensor:
    """Index y · width + x of the k nearest cells of N grids, (N, B, G, k); what a smaller grid lacks comes last.

    Let column i and row j be the i-th and j-th nearest on their axes. (i + 1)(j + 1) cells, this one included, are no
    farther than cell (i, j), so that only cells with (i + 1)(j + 1) <= k can be among the k nearest: about k ln k.
    """
    axes = _axes(levels, centers.device)
    line, distance = _nearest_lines(axes, centers, min(k, max(max(level.height, level.width) for level in levels)))
    x, y = line[0], line[1] * axes[0, 0]
    shares = [(slice(i, i + 1), slice(k // (i + 1))) for i in range(x.shape[-1])]
    far = torch.cat([distance[0, ..., i] + distance[1, ..., j] for i, j in shares], dim=-1)
    cell = torch.cat([x[..., i] + y[..., j] for i, j in shares], dim=-1).to(torch.int64)
    return unpack_rising(rising(far, cell).topk(k, largest=False).values)[1]


def _nearest_lines(axes: Tensor, centers: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Indices and squared distances in pixels of the k nearest grid lines on x and y, each (2, N, B, G, k) rising.

    The n nearest lines are neighbours. They begin at the first line that is no farther than the one n lines on, which
    is within one of half of n before the centre. Their indices sum up to n · first + n(n - 1)/2, and the n-th nearest
    line is what this sum gains. Where there are no n lines the distance is infinite.
    """
    size, stride, offset = axes.unbind()
    center = centers.movedim(-1, 0)[:, None, :, :, None]  # (2, 1, B, G, 1)
    n = torch.arange(1, k + 1, device=centers.device)

    def distance(line: Tensor) -> Tensor:
        return ((line + offset) * stride - center).square()

    first = (center / stride - offset - n / 2).round()
    first = (first + (distance(first) > distance(first + n))).minimum(size - n).clamp(min=0)
    total = first * n + n * (n - 1) / 2
    line = torch.cat([total[..., :1], total.diff()], dim=-1)
    return line, distance(line).masked_fill(n > size, torch.inf)


@kept  # copied to the device once, not at every step
def _axes(levels: tuple[Level, ...], device: torch.device) -> Tensor:
    """Number of lines, stride and offset of the columns and of the rows of N grids: (3, 2, N, 1, 1, 1)."""
    columns = [(level.width, level.stride, level.offset) for level in levels]
    rows = [(level.height, level.stride, level.offset) for level in levels]
    with torch.inference_mode(False):  # a later training step uses the same tensor
        table = torch.tensor([columns, rows], dtype=torch.float32, device="cpu").permute(2, 0, 1)[..., None, None, None]
        return table.to(device, non_blocking=copies_in_background(device))


def _search(priors: Priors, centers: Tensor, k: int) -> Tensor:
    k = min(k, len(priors))
    nearest = torch.zeros(*centers.shape[:2], k, dtype=torch.int64, device=centers.device)  # padding has no block
    for images, objects in blocks(centers, len(priors)):
        offset = of_images(priors.centers, images).unsqueeze(-3) - centers[images, objects].unsqueeze(-2)
        nearest[images, objects] = top_k(offset.square().sum(-1), k, largest=False)[1]  # (b, g, k)
    return nearest


def box_centers(boxes: Tensor) -> Tensor:
    """Middle of boxes (…, 4) xyxy: (…, 2)."""
    return (boxes[..., :2] + boxes[..., 2:]) / 2


def center_offsets(boxes: Tensor, centers: Tensor) -> tuple[Tensor, Tensor]:
    """Distances x and y in pixels from the middles of boxes (…, 4) to centres (…, 2); they broadcast."""
    x, y = box_centers(boxes).unbind(-1)
    return centers[..., 0] - x, centers[..., 1] - y


def inside_margin(boxes: Tensor, centers: Tensor) -> Tensor:
    """Distance in pixels from centres (…, 2) to the nearest side of boxes (…, 4), negative outside; they broadcast."""
    x1, y1, x2, y2 = boxes.unbind(-1)
    x, y = centers.unbind(-1)
    margin = torch.minimum(x - x1, x2 - x)
    return torch.minimum(margin, torch.minimum(y - y1, y2 - y))
