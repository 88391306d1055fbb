"""Losses of coordinate differences: L1, smooth L1 (by beta, and by sigma with two weights), balanced L1."""

import math
from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.kernels.overlap import PairGeometry
from boxwright.losses.boxes import BoxLoss, coordinate_loss
from boxwright.losses.reduction import Reduction, reduce, upcast_pair, weighted

__all__ = [
    "BalancedL1Loss",
    "L1Loss",
    "SmoothL1Loss",
    "balanced_l1_loss",
    "l1_loss",
    "sigma_smooth_l1_loss",
    "smooth_l1_loss",
]


def l1_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Absolute difference, `|x - t|`; arguments as `smooth_l1_loss`."""
    return smooth_l1_loss(inputs, targets, beta=0.0, weight=weight, reduction=reduction, normalizer=normalizer)


def smooth_l1_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    beta: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Squared near zero, absolute beyond (Girshick 2015, arXiv:1504.08083).

    `L = d² / (2 beta)` where `d = |x - t| < beta`, else `d - beta / 2`.

    Args:
        inputs: (…) predictions, usually (…, 4) deltas.
        targets: the same shape and units.
        beta: where the two pieces meet; 0 is plain L1.
        weight: the inputs' shape, or without the last dimension.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of elements.

    Raises:
        ValueError: shapes differ, or beta is negative.

    >>> smooth_l1_loss(torch.tensor([0.5, 3.0]), torch.zeros(2))
    tensor([0.1250, 2.5000])
    """
    if beta < 0:
        raise ValueError(f"beta must not be negative, got {beta}")
    loss = F.smooth_l1_loss(*upcast_pair(inputs, targets), reduction="none", beta=beta)
    return reduce(weighted(loss, weight), reduction, normalizer)


def sigma_smooth_l1_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    sigma: float = 1.0,
    inside_weight: Tensor | None = None,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Smooth L1 as Faster R-CNN writes it (Ren et al. 2015, arXiv:1506.01497): beta is 1 / sigma².

    `weight * smooth_l1(inside_weight * (x - t))`: the inside weight selects coordinates, the outside one normalises.

    Args:
        inputs: (…) predicted deltas.
        targets: the same shape.
        sigma: 3 in the proposal network, 1 in the second stage.
        inside_weight: the inputs' shape, or without the last dimension.
        weight: the same.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of elements.

    Raises:
        ValueError: shapes that do not fit, or sigma is not positive.
    """
    if not sigma > 0:
        raise ValueError(f"sigma must be positive, got {sigma}")
    inputs, targets = upcast_pair(inputs, targets)
    difference = weighted(inputs - targets, inside_weight)
    return smooth_l1_loss(
        difference,
        torch.zeros_like(difference),
        beta=1 / sigma**2,
        weight=weight,
        reduction=reduction,
        normalizer=normalizer,
    )


def balanced_l1_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.5,
    gamma: float = 1.5,
    beta: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Smooth L1 with larger gradients from accurate boxes (Pang et al. 2019, arXiv:1904.02701).

    With `b = exp(gamma / alpha) - 1` and `d = |x - t|`: `alpha / b (b d + 1) ln(b d / beta + 1) - alpha d` where
    `d < beta`, else `gamma d + gamma / b - alpha beta`. As published, the slope is continuous only for beta = 1.

    Args:
        inputs: (…) predictions, usually (…, 4) deltas.
        targets: the same shape and units.
        alpha: smaller values raise the gradient of accurate boxes.
        gamma: gradient of inaccurate boxes.
        beta: where the two pieces meet.
        weight: the inputs' shape, or without the last dimension.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of elements.

    Raises:
        ValueError: shapes that do not fit, or alpha, gamma or beta is not positive.
    """
    if not min(alpha, gamma, beta) > 0:
        raise ValueError(f"alpha, gamma and beta must be positive, got {alpha}, {gamma} and {beta}")
    curve = partial(_balanced, alpha=alpha, gamma=gamma, beta=beta)
    if inputs.shape[-1:] == (4,):
        return coordinate_loss(partial(_of_difference, curve), inputs, targets, weight, reduction, normalizer)
    inputs, targets = upcast_pair(inputs, targets)
    return reduce(weighted(curve(inputs - targets), weight), reduction, normalizer)


def _of_difference(curve: Callable[[Tensor], Tensor], pair: PairGeometry) -> Tensor:
    return curve(pair.difference)


def _balanced(difference: Tensor, alpha: float, gamma: float, beta: float) -> Tensor:
    distance = difference.abs()
    # beyond beta the curve goes on as a line; hardtanh has no gradient at its end, where the line begins
    near = F.hardtanh(distance, 0.0, beta)
    b = math.exp(gamma / alpha) - 1
    curved = alpha / b * (b * near + 1) * torch.log1p(b / beta * near) - alpha * near
    return curved + gamma * (distance - near)


class L1Loss(BoxLoss):
    """Module of `l1_loss`."""

    space: ClassVar[str] = "deltas"
    function = staticmethod(l1_loss)

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)


class SmoothL1Loss(BoxLoss):
    """Module of `smooth_l1_loss`."""

    space: ClassVar[str] = "deltas"
    function = staticmethod(smooth_l1_loss)

    def __init__(self, beta: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, beta=beta)


class SigmaSmoothL1Loss(BoxLoss):
    """Module of `sigma_smooth_l1_loss`, without inside weights."""

    space: ClassVar[str] = "deltas"
    function = staticmethod(sigma_smooth_l1_loss)

    def __init__(self, sigma: float = 1.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction, sigma=sigma)


class BalancedL1Loss(BoxLoss):
    """Module of `balanced_l1_loss`."""

    space: ClassVar[str] = "deltas"
    function = staticmethod(balanced_l1_loss)

    def __init__(
        self, alpha: float = 0.5, gamma: float = 1.5, beta: float = 1.0, reduction: Reduction = "mean"
    ) -> None:
        super().__init__(reduction, alpha=alpha, gamma=gamma, beta=beta)
