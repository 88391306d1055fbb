"""How much boxes overlap: every box of one set against every box of another, or pair by pair.

`box_iou` is for matching and runs without gradient in place on coordinate planes; `aligned_iou` is differentiable and
serves soft targets. To train with an overlap use `boxwright.losses`.
"""

from collections.abc import Sequence
from typing import Any, Literal, get_args

import torch
from torch import Tensor

__all__ = ["IoUMode", "aligned_iou", "box_iou"]

IoUMode = Literal["iou", "iof", "giou", "diou"]

# pairs at a time: as many as the threads have use for, fewer where there are more temporaries; a GPU takes more at once
BLOCK = {"iou": 2**20, "iof": 2**20, "giou": 3 * 2**17, "diou": 3 * 2**17}
ON_GPU = 64


@torch.no_grad()
def box_iou(a: Tensor, b: Tensor, mode: IoUMode = "iou", *, eps: float = 1e-7, offset: float = 0.0) -> Tensor:
    """Overlap of every box of `a` with every box of `b`, without gradient.

    A large result is filled in blocks of rows, so that temporaries take as much memory as one block.

    Args:
        a: (…, N, 4) xyxy.
        b: (…, M, 4) xyxy in the same units; the leading dimensions broadcast.
        mode: "iou"; "iof", intersection over the area of `a`; "giou" (Rezatofighi et al. 2019, arXiv:1902.09630);
            "diou" (Zheng et al. 2020, arXiv:1911.08287).
        eps: floor of the divisors, so that degenerate boxes give 0 and never NaN.
        offset: added to every width and height; 1 for boxes whose last pixel is inclusive (older code bases).

    Returns:
        (…, N, M) float.

    Raises:
        ValueError: a shape or the mode is wrong.

    >>> box_iou(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[1.0, 0.0, 3.0, 2.0], [5.0, 5.0, 6.0, 6.0]]))
    tensor([[0.3333, 0.0000]])
    """
    _check(a, b, mode)
    rows, columns = _planes(a.unsqueeze(-2)), _planes(b.unsqueeze(-3))
    if torch.compiler.is_compiling():
        return _overlap(rows, columns, mode, eps, offset)
    shape = torch.broadcast_shapes(rows[0].shape, columns[0].shape)
    pairs = BLOCK[mode] if a.is_cpu else BLOCK[mode] * ON_GPU
    if 2 * shape.numel() <= pairs:
        return _overlap(rows, columns, mode, eps, offset)
    height = -(-shape[-2] // -(-shape.numel() // pairs))  # of equal blocks, which find the memory of the one before
    halves = [(..., part, slice(None)) for part in (slice(height // 2), slice(height // 2, None))]
    blocks = zip(*(plane.split(height, -2) for plane in rows), strict=True)
    result = rows[0].new_empty(shape, dtype=torch.promote_types(rows[0].dtype, columns[0].dtype))
    for part, block in zip(result.split(height, -2), blocks, strict=True):
        _overlap(block, columns, mode, eps, offset, part, halves)
    return result


def aligned_iou(a: Tensor, b: Tensor, mode: IoUMode = "iou", *, eps: float = 1e-7, offset: float = 0.0) -> Tensor:
    """Overlap of each box of `a` with the box of `b` at the same place; arguments as `box_iou`.

    Args:
        a: (…, 4) xyxy.
        b: (…, 4) xyxy, broadcasts against `a`.
        mode: as `box_iou`.
        eps: as `box_iou`.
        offset: as `box_iou`.

    Returns:
        (…) float, differentiable in both.
    """
    _check(a, b, mode)
    return _overlap(_planes(a), _planes(b), mode, eps, offset)


def _overlap(
    a: tuple[Tensor, ...],
    b: tuple[Tensor, ...],
    mode: IoUMode,
    eps: float,
    offset: float,
    out: Tensor | None = None,
    parts: Sequence[Any] = (...,),
) -> Tensor:
    """Overlap of four planes with four planes that broadcast; `out` and temporaries are reused wherever that works.

    Where most temporaries are alive, at the second axis of the intersection, it goes part by part (indices of `a`).
    """
    area_a, area_b = _area(a, offset), _area(b, offset)
    overlap = _extent(a, b, 0, offset, out)
    for part in parts:
        overlap[part].mul_(_extent(tuple(plane[part] for plane in a), b, 1, offset))
    if mode == "iof":
        return torch.div(overlap, area_a.clamp(min=eps), out=out)
    union = (area_a + area_b).sub_(overlap)
    if mode == "iou":
        return torch.div(overlap, union.clamp_(min=eps), out=out)
    if mode == "giou":
        iou = overlap.div_(union.clamp(min=eps))
        hull = _hull_extent(a, b, 0, offset).mul_(_hull_extent(a, b, 1, offset))
        return torch.sub(iou, (hull - union).div_(hull.clamp(min=eps)), out=out)
    iou = overlap.div_(union.clamp_(min=eps))
    diagonal = _hull_extent(a, b, 0, offset).square().add_(_hull_extent(a, b, 1, offset).square())
    distance = _center_offset(a, b, 0).square().add_(_center_offset(a, b, 1).square())
    return torch.sub(iou, distance.div_(diagonal.clamp(min=eps)), out=out)


def _area(box: tuple[Tensor, ...], offset: float) -> Tensor:
    return (box[2] - box[0] + offset).clamp_(min=0) * (box[3] - box[1] + offset).clamp_(min=0)


def _extent(
    a: tuple[Tensor, ...], b: tuple[Tensor, ...], axis: int, offset: float, out: Tensor | None = None
) -> Tensor:
    """Width (axis 0) or height (axis 1) of the intersection, at least 0."""
    extent = torch.minimum(a[axis + 2], b[axis + 2], out=out).sub_(torch.maximum(a[axis], b[axis]))
    return (extent.add_(offset) if offset else extent).clamp_(min=0)


def _hull_extent(a: tuple[Tensor, ...], b: tuple[Tensor, ...], axis: int, offset: float) -> Tensor:
    """Width or height of the smallest box around both."""
    extent = torch.maximum(a[axis + 2], b[axis + 2]).sub_(torch.minimum(a[axis], b[axis]))
    return extent.add_(offset) if offset else extent


def _center_offset(a: tuple[Tensor, ...], b: tuple[Tensor, ...], axis: int) -> Tensor:
    return ((a[axis] + a[axis + 2]) / 2).sub((b[axis] + b[axis + 2]) / 2)


def _planes(boxes: Tensor) -> tuple[Tensor, ...]:
    """Split (…, 4) into four contiguous planes (vectorised loads), in float32 at least (areas overflow in half)."""
    return boxes.to(torch.promote_types(boxes.dtype, torch.float32)).movedim(-1, 0).contiguous().unbind(0)


def _check(a: Tensor, b: Tensor, mode: str) -> None:
    for name, boxes in (("a", a), ("b", b)):
        if boxes.shape[-1:] != (4,):
            raise ValueError(f"{name} must have shape (…, 4), got {tuple(boxes.shape)}")
    if mode not in get_args(IoUMode):
        raise ValueError(f"mode must be one of {', '.join(get_args(IoUMode))}, got {mode!r}")
