"""Losses of the overlap of decoded boxes: IoU, GIoU, DIoU, CIoU.

All take xyxy boxes in any one unit, give one value per pair of boxes, and are finite with a finite gradient for every
finite pair: identical, disjoint, nested, inverted, without area.
"""

from functools import partial
from typing import Any, Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from boxwright.kernels.overlap import PairGeometry, floor
from boxwright.losses.boxes import BoxLoss, overlap_loss
from boxwright.losses.reduction import Reduction, check_choice

__all__ = [
    "CIoULoss",
    "DIoULoss",
    "GIoULoss",
    "IoULoss",
    "aspect_gap",
    "ciou_loss",
    "diou_loss",
    "giou_loss",
    "iou_added",
    "iou_loss",
    "one_minus_iou",
    "squared_distance_ratio",
    "union_of",
]

IoUForm = Literal["linear", "square", "log"]
GIoUVersion = Literal["floored", "torchvision"]
CIoUVersion = Literal["gated", "classic", "torchvision"]

UNION_FLOOR: Final = 1e-6
# keeps 0 / 0 away where two boxes agree exactly; far below every overlap that float32 can tell from 1
TINY: Final = 1e-12
SMALLEST_SQUARE: Final = 1e-30


def iou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    form: IoUForm = "linear",
    eps: float = 1e-6,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`1 - IoU`, `1 - IoU²` or `-ln IoU` (Yu et al. 2016, arXiv:1608.01471).

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        form: "linear", "square" or "log".
        eps: least overlap; disjoint boxes cost `-ln eps` in the "log" form and have no gradient in any form.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.

    Raises:
        ValueError: shapes differ or are not (…, 4), or the form is unknown.
    """
    check_choice("form", form, ("linear", "square", "log"))
    return overlap_loss(partial(_iou, form=form, eps=eps), inputs, targets, weight, reduction, normalizer)


def giou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    eps: float = 1e-7,
    version: GIoUVersion = "floored",
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`1 - IoU + (hull - union) / hull` (Rezatofighi et al. 2019, arXiv:1902.09630); pulls disjoint boxes together.

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        eps: least divisor.
        version: "floored" raises divisors to eps, "torchvision" adds eps; they differ for areas comparable with eps.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.

    Raises:
        ValueError: shapes differ or are not (…, 4), or the version is unknown.

    >>> giou_loss(torch.tensor([[0.0, 0.0, 2.0, 2.0]]), torch.tensor([[0.0, 0.0, 2.0, 1.0]]))
    tensor([0.5000])
    """
    check_choice("version", version, ("floored", "torchvision"))
    formula = partial(_giou if version == "floored" else _giou_torchvision, eps=eps)
    return overlap_loss(formula, inputs, targets, weight, reduction, normalizer)


def diou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    eps: float = 1e-7,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`1 - IoU + distance² / diagonal²` of centres and hull (Zheng et al. 2020, arXiv:1911.08287).

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        eps: added to the divisors.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.
    """
    return overlap_loss(partial(_diou, eps=eps), inputs, targets, weight, reduction, normalizer)


def ciou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    version: CIoUVersion = "gated",
    eps: float = 1e-7,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """DIoU and a term for the aspect ratio (Zheng et al. 2020, arXiv:1911.08287 and 2005.03572).

    `1 - IoU + distance² / diagonal² + a v` with `v = 4 / π² (atan(w_t / h_t) - atan(w / h))²`. Published code disagrees
    about a: "gated" (default; the second paper, mmdetection 3) `v / (1 - IoU + v)` where IoU > 0.5, else 0, detached,
    the whole clipped to 0..2; "classic" (mmdetection 2) the same without gate and clip, differentiated through;
    "torchvision" detached without gate and clip.

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        version: which of the three.
        eps: added to divisors; torchvision's version takes 1e-7 for all but a.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.

    Raises:
        ValueError: shapes differ or are not (…, 4), or the version is unknown.
    """
    formulas = {"gated": _ciou_gated, "classic": _ciou_classic, "torchvision": _ciou_torchvision}
    check_choice("version", version, tuple(formulas))
    return overlap_loss(partial(formulas[version], eps=eps), inputs, targets, weight, reduction, normalizer)


def union_of(pair: PairGeometry) -> Tensor:
    """Area (n,) that either box covers."""
    return pair.area + pair.target_area - pair.intersection


def one_minus_iou(pair: PairGeometry, eps: float) -> Tensor:
    """1 - IoU (n,), the union at least eps."""
    return 1 - pair.intersection / floor(union_of(pair), eps)


def squared_distance_ratio(pair: PairGeometry, eps: float) -> Tensor:
    """Squared distance of the centres over the squared diagonal of the hull (n,)."""
    return pair.squared_distance / (pair.squared_diagonal + eps)


def _iou(pair: PairGeometry, form: IoUForm, eps: float) -> Tensor:
    iou = floor(pair.intersection / floor(union_of(pair), UNION_FLOOR), eps)
    if form == "log":
        return -iou.log()
    return 1 - (iou.square() if form == "square" else iou)


def _giou(pair: PairGeometry, eps: float) -> Tensor:
    union, hull = floor(union_of(pair), eps), floor(pair.hull_area, eps)
    return 1 - pair.intersection / union + (hull - union) / hull


def _giou_torchvision(pair: PairGeometry, eps: float) -> Tensor:
    union, hull = union_of(pair), pair.hull_area
    return 1 - pair.intersection / (floor(union, 0.0) + eps) + (hull - union) / (floor(hull, 0.0) + eps)


def _diou(pair: PairGeometry, eps: float) -> Tensor:
    return 1 - iou_added(pair, eps) + squared_distance_ratio(pair, eps)


def _ciou_gated(pair: PairGeometry, eps: float) -> Tensor:
    iou = iou_added(pair, eps)
    v = aspect_gap(pair, eps)
    with torch.no_grad():
        # sign and not a comparison, which would turn booleans into numbers: twice as slow
        gate = (iou - 0.5).sign_().clamp_(min=0)
        alpha = v / floor(1 - iou + v, TINY) * gate
    return 1 - F.hardtanh(iou - squared_distance_ratio(pair, eps) - alpha * v)


def _ciou_classic(pair: PairGeometry, eps: float) -> Tensor:
    iou = iou_added(pair, eps)
    v = aspect_gap(pair, eps)
    return 1 - iou + squared_distance_ratio(pair, eps) + v.square() / floor(1 - iou + v, TINY)


def _ciou_torchvision(pair: PairGeometry, eps: float) -> Tensor:
    iou = iou_added(pair, 1e-7)
    v = aspect_gap(pair, 0.0)
    with torch.no_grad():
        alpha = v / floor(1 - iou + v + eps, TINY)
    return 1 - iou + squared_distance_ratio(pair, 1e-7) + alpha * v


def iou_added(pair: PairGeometry, eps: float) -> Tensor:
    """IoU with eps added to the union, which an inverted box could make negative."""
    return pair.intersection / (floor(union_of(pair), 0.0) + eps)


def aspect_gap(pair: PairGeometry, eps: float) -> Tensor:
    """Squared difference of the angles of the diagonals over (π / 2)²."""
    turn = _AspectAngle.apply if pair.leaves else aspect_angle
    return (2 / torch.pi * turn(pair.size, pair.target_size, eps)).square()


def aspect_angle(size: Tensor, target_size: Tensor, eps: float) -> Tensor:
    """`atan(w_t / h_t) - atan(w / h)` (n,) of the target and the prediction, from sizes (2, n)."""
    sine, cosine = _turn(size, target_size, eps)
    # autograd squares both, which of tiny boxes is 0; multiples of both have the same angle
    length = (sine.abs() + cosine.abs()).detach()
    nothing = length == 0
    length = length.masked_fill(nothing, 1)
    return torch.atan2(sine / length, (cosine / length).masked_fill(nothing, 1))


def _turn(size: Tensor, target_size: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Sine and cosine (n,) of the angle between the diagonals, times the same positive number.

    One arc tangent for two, no division, and no cancellation of angles.
    """
    (width, height), (target_width, target_height) = size, target_size
    height, target_height = height + eps, target_height + eps
    heights = height * target_height
    sine = torch.addcmul(target_width * height, width, target_height, value=-1)
    cosine = torch.addcmul(heights, width, target_width)
    # the angle of a box upside down is that of its opposite
    upright = torch.ones_like(heights).copysign(heights)
    return sine * upright, cosine * upright


class _AspectAngle(torch.autograd.Function):
    """`aspect_angle` with its gradient in closed form."""

    @staticmethod
    def forward(ctx: Any, size: Tensor, target_size: Tensor, eps: float) -> Tensor:
        ctx.save_for_backward(size, target_size)
        ctx.eps = eps
        return torch.atan2(*_turn(size, target_size, eps))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        slopes = [
            _arctangent_slope(size, ctx.eps, upstream * sign) if needed else None
            for size, needed, sign in zip(ctx.saved_tensors, ctx.needs_input_grad[:2], (-1, 1), strict=True)
        ]
        return slopes[0], slopes[1], None


def _arctangent_slope(size: Tensor, eps: float, upstream: Tensor) -> Tensor:
    """Slope (2, n) of `atan(width / height)` by width and height, times `upstream`."""
    width, height = size[0], size[1] + eps
    share = upstream / floor(torch.addcmul(height * height, width, width), SMALLEST_SQUARE)
    slope = torch.empty_like(size)
    torch.mul(share, height, out=slope[0])
    torch.mul(share, width, out=slope[1]).neg_()
    return slope


class IoULoss(BoxLoss):
    """Module of `iou_loss`."""

    function = staticmethod(iou_loss)

    def __init__(self, form: IoUForm = "linear", eps: float = 1e-6, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, form=form, eps=eps)


class GIoULoss(BoxLoss):
    """Module of `giou_loss`."""

    function = staticmethod(giou_loss)

    def __init__(self, eps: float = 1e-7, version: GIoUVersion = "floored", reduction: Reduction = "mean") -> None:
        super().__init__(reduction, eps=eps, version=version)


class DIoULoss(BoxLoss):
    """Module of `diou_loss`."""

    function = staticmethod(diou_loss)

    def __init__(self, eps: float = 1e-7, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, eps=eps)


class CIoULoss(BoxLoss):
    """Module of `ciou_loss`."""

    function = staticmethod(ciou_loss)

    def __init__(self, version: CIoUVersion = "gated", eps: float = 1e-7, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, version=version, eps=eps)
