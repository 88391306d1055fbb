"""Overlap losses with terms for the shape: EIoU, MPDIoU, bounded IoU; conventions as in `iou`."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.kernels.overlap import PairGeometry, floor
from boxwright.losses.boxes import BoxLoss, coordinate_loss, overlap_loss
from boxwright.losses.iou import one_minus_iou, squared_distance_ratio
from boxwright.losses.reduction import Reduction

__all__ = [
    "BoundedIoULoss",
    "EIoULoss",
    "MPDIoULoss",
    "bounded_iou_loss",
    "eiou_loss",
    "mpdiou_loss",
]


def eiou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    eps: float = 1e-7,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """DIoU and the squared differences of width and height over the hull's (Zhang et al. 2021, arXiv:2101.08158).

    `1 - IoU + distance² / diagonal² + (w - w_t)² / w_hull² + (h - h_t)² / h_hull²`; arguments as `giou_loss`.
    """
    return overlap_loss(partial(_eiou, eps=eps), inputs, targets, weight, reduction, normalizer)


def mpdiou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    image_size: tuple[float, float] = (640.0, 640.0),
    eps: float = 1e-7,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`1 - IoU + (d1² + d2²) / (w² + h²)` (Ma and Xu 2023, arXiv:2307.07662).

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        image_size: h, w of the network's input in the units of the boxes; d1 and d2 are the distances of the upper
            left and of the lower right corners.
        eps: least divisor.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.
    """
    diagonal = max(image_size[0] ** 2 + image_size[1] ** 2, eps)
    formula = partial(_mpdiou, squared_diagonal=diagonal, eps=eps)
    return overlap_loss(formula, inputs, targets, weight, reduction, normalizer)


def bounded_iou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    beta: float = 0.2,
    eps: float = 1e-3,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Upper bound of the IoU per coordinate, through smooth L1 (Tychsen-Smith and Petersson 2018, arXiv:1711.00164).

    With all but one of x, y, w, h right, the IoU is at most `(w_t - 2|dx|) / (w_t + 2|dx|)` or `min(w_t / w, w / w_t)`.
    An inverted prediction (w < 0) is charged by `w / w_t` alone: the published minimum has a pole at `w = -eps`.

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units; carries no gradient.
        beta: where smooth L1's two pieces meet.
        eps: added to the divisors.
        weight: (…) per box or (…, 4) per coordinate.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of coordinates.

    Returns:
        (…, 4) costs of x, y, w, h for reduction "none".

    Raises:
        ValueError: shapes differ or are not (…, 4), or beta is negative.
    """
    if beta < 0:
        raise ValueError(f"beta must not be negative, got {beta}")
    formula = partial(_bounded, beta=beta, eps=eps)
    return coordinate_loss(formula, inputs, targets.detach(), weight, reduction, normalizer)


def _eiou(pair: PairGeometry, eps: float) -> Tensor:
    difference = (pair.size - pair.target_size).square()
    sides = (difference / (pair.hull.square() + eps)).sum(0)
    return one_minus_iou(pair, eps) + squared_distance_ratio(pair, eps) + sides


def _mpdiou(pair: PairGeometry, squared_diagonal: float, eps: float) -> Tensor:
    # the corners of a side are off by offset ± half the difference of the sizes
    corners = 2 * pair.squared_distance + (pair.size - pair.target_size).square().sum(0) / 2
    return one_minus_iou(pair, eps) + corners / squared_diagonal


def _bounded(pair: PairGeometry, beta: float, eps: float) -> Tensor:
    goal, shift = pair.target_size, 2 * pair.offset.abs()
    center = F.relu((goal - shift) / floor(goal + shift + eps, eps))
    smaller, larger = _smaller_and_larger(pair)
    extent = smaller / floor(larger + eps, eps)
    bound = torch.cat([center, extent])
    return F.smooth_l1_loss(bound, torch.ones_like(bound), reduction="none", beta=beta)


def _smaller_and_larger(pair: PairGeometry) -> tuple[Tensor, Tensor]:
    """Of each side the smaller and the larger, (2, n) each; several times faster backward than `minimum`."""
    total, difference = pair.size + pair.target_size, (pair.size - pair.target_size).abs()
    return (total - difference) / 2, (total + difference) / 2


class EIoULoss(BoxLoss):
    """Module of `eiou_loss`."""

    function = staticmethod(eiou_loss)

    def __init__(self, eps: float = 1e-7, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, eps=eps)


class MPDIoULoss(BoxLoss):
    """Module of `mpdiou_loss`."""

    function = staticmethod(mpdiou_loss)

    def __init__(
        self, image_size: tuple[float, float] = (640.0, 640.0), eps: float = 1e-7, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction, image_size=image_size, eps=eps)


class BoundedIoULoss(BoxLoss):
    """Module of `bounded_iou_loss`."""

    function = staticmethod(bounded_iou_loss)

    def __init__(self, beta: float = 0.2, eps: float = 1e-3, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, beta=beta, eps=eps)
