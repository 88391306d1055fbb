"""SIoU: overlap with costs of the angle, the distance and the shape; conventions as in `iou`."""

from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from boxwright.kernels.overlap import PairGeometry, floor
from boxwright.losses.boxes import BoxLoss, overlap_loss
from boxwright.losses.iou import one_minus_iou
from boxwright.losses.reduction import Reduction

__all__ = ["SIoULoss", "siou_loss"]


def siou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    theta: float = 4.0,
    eps: float = 1e-7,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """IoU with costs of the angle, the distance and the shape (Gevorgyan 2022, arXiv:2205.12740).

    `1 - IoU + (D + S) / 2` with the sums over both axes `D = Σ 1 - exp(-(2 - A) (offset / hull)²)` and
    `S = Σ (1 - exp(-|w - w_t| / max(w, w_t)))^theta`; `A = 2 |dx dy| / (dx² + dy²)` is the paper's angle cost, the
    sine of twice the angle between the line of the centres and an axis.

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        theta: how sharply the shape cost rises, at least 1 (below, its slope is infinite where the shapes agree).
        eps: least divisor.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.

    Raises:
        ValueError: shapes differ or are not (…, 4), or theta is below 1.
    """
    if theta < 1:
        raise ValueError(f"theta must be at least 1, got {theta}")
    return overlap_loss(partial(_siou, theta=theta, eps=eps), inputs, targets, weight, reduction, normalizer)


def _siou(pair: PairGeometry, theta: float, eps: float) -> Tensor:
    extents = (pair.offset, pair.hull, pair.size, pair.target_size)
    costs = _Costs.apply if pair.leaves else siou_costs
    return one_minus_iou(pair, eps) + costs(*extents, theta, eps)


def siou_costs(offset: Tensor, hull: Tensor, size: Tensor, target_size: Tensor, theta: float, eps: float) -> Tensor:
    """(n,) half the sum of distance and shape cost, from extents (2, n)."""
    angle = 2 * offset.prod(0).abs() / floor(offset.square().sum(0), eps)
    distance = -torch.expm1((angle - 2) * (offset / floor(hull, eps**0.5)).square())
    difference = (size - target_size).abs()
    larger = size + target_size + difference  # twice the larger side
    shape = (-torch.expm1(-2 * difference / floor(larger, 2 * eps))).pow(theta)
    return (shape + distance).sum(0) / 2


class _Costs(torch.autograd.Function):
    """`siou_costs` with its gradient in closed form: a third of the passes that autograd makes of it."""

    @staticmethod
    def forward(
        ctx: Any, offset: Tensor, hull: Tensor, size: Tensor, target_size: Tensor, theta: float, eps: float
    ) -> Tensor:
        distance, *moved = _distance(offset, hull, eps)
        shape, *grown = _shape(size, target_size, theta, eps, both=ctx.needs_input_grad[3])
        ctx.save_for_backward(*moved, *grown)
        return distance.add_(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        slopes = [None if slope is None else slope * upstream for slope in ctx.saved_tensors]
        return *slopes, None, None


def _distance(offset: Tensor, hull: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Half the distance cost D (n,) and its slopes by offset and hull (2, n).

    D = Σ 1 - exp(q), q = (A - 2) u², u = o / h: dD/dh = 2 exp(q) q / h, dD/do = 2 (2 - A) exp(q) u / h + dD/dA dA/do.
    """
    x, y = offset
    product, length = x * y, torch.addcmul(x * x, y, y)
    inverse = floor(length, eps).reciprocal_()
    angle = product.abs().mul_(inverse).mul_(2)
    divisor = floor(hull, eps**0.5)
    ratio = offset / divisor
    slope = (ratio.square() * (angle - 2)).exp_()
    cost = torch.rsub(slope[0] + slope[1], 1, alpha=0.5)
    slope.mul_(ratio).div_(divisor)
    by_angle = (slope[0] * x).addcmul_(slope[1], y).mul_(inverse).neg_()
    by_offset = slope.mul_(2 - angle)
    by_hull = _where_above(ratio.mul_(by_offset).neg_(), hull, eps**0.5)
    by_offset.addcmul_(offset, _where_above(angle * by_angle, length, eps).neg_())
    by_offset.addcmul_(offset.flip(0), product.sign_().mul_(by_angle))
    return cost, by_offset, by_hull


def _shape(
    size: Tensor, target_size: Tensor, theta: float, eps: float, both: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Half the shape cost S (n,) and its slopes by the size of the prediction and, where `both`, of the target (2, n).

    S = Σ (1 - exp(-d / m))^theta with d = |w - w_t| and m = max(w, w_t).
    """
    gap = size - target_size
    sign = gap.sign()
    larger = torch.maximum(size, target_size)
    divisor = floor(larger, eps)
    ratio = gap.abs_().div_(divisor)
    share = ratio.neg().exp_()
    rise = 1 - share
    # a general power takes longer than all the rest
    inner = rise.square().mul_(rise) if theta == 4 else rise.pow(theta - 1)
    cost = rise.mul_(inner)
    by_gap = inner.mul_(share).div_(divisor).mul_(theta / 2)
    by_larger = _where_above(ratio.mul_(by_gap), larger, eps).mul_(-0.5)
    # the larger side is w, w_t, or half of each
    by_size = by_gap.add_(by_larger).mul_(sign).add_(by_larger)
    return (cost[0] + cost[1]).mul_(0.5), by_size, by_larger.mul_(2).sub_(by_size) if both else None


def _where_above(slope: Tensor, value: Tensor, least: float) -> Tensor:
    """Slope of `floor`: nothing where the value was raised."""
    kept: Tensor = torch.ops.aten.threshold_backward(slope, value, least)
    return kept


class SIoULoss(BoxLoss):
    """Module of `siou_loss`."""

    function = staticmethod(siou_loss)

    def __init__(self, theta: float = 4.0, eps: float = 1e-7, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, theta=theta, eps=eps)
