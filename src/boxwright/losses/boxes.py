"""What the box losses share: the checks at the door, the weights, and the module around a function."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor

from boxwright.kernels.overlap import PairFormula, PairGeometry, pair_loss
from boxwright.losses.module import LossModule
from boxwright.losses.reduction import Reduction, check_choice, reduce, upcast_pair, weighted

__all__ = ["BoxLoss", "coordinate_loss", "overlap_loss"]


class BoxLoss(LossModule):
    """A box loss as a module: keeps the hyper-parameters of its `function` and the reduction.

    A subclass names the function and lists its hyper-parameters in `__init__`. `space` says what the loss compares:
    "boxes" (decoded xyxy), "deltas" (parameters as a coder encodes them), "gaussian" (deltas
    and then the logarithms of their variances) or "distribution" (logits of bins).

    Raises:
        ValueError: the function refuses a hyper-parameter or the reduction.
    """

    space: ClassVar[str] = "boxes"
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, reduction: Reduction = "mean", **hyper: Any) -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        self.reduction = reduction
        self.hyper = hyper
        if hasattr(type(self), "function"):  # options that cannot be meant are refused here: by the loss of nothing
            shape = {"gaussian": (0, 8), "distribution": (0, 4, 2)}.get(self.space, (0, 4))
            nothing = (torch.zeros(size) for size in (shape, (0, 4)))
            type(self).function(*nothing, **hyper)

    def forward(
        self, inputs: Tensor, targets: Tensor, *, weight: Tensor | None = None, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """Compute the loss.

        Args:
            inputs: (…, 4) predictions in the loss's `space` (a distribution has its bins as last dimension).
            targets: the same shape (without the bins).
            weight: (…) per box, or (…, 4) where the loss is elementwise.
            normalizer: the divisor of reductions "mean" and "image".
        """
        function = type(self).function
        return function(inputs, targets, weight=weight, reduction=self.reduction, normalizer=normalizer, **self.hyper)


def overlap_loss(
    formula: PairFormula,
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    normalizer: Tensor | float | None,
) -> Tensor:
    """Weigh and reduce the loss that a formula gives each pair of xyxy boxes (…, 4): one value per pair (…).

    Raises:
        ValueError: shapes differ, or the last dimension is not 4.
        TypeError: boxes are not floating point.
    """
    inputs, targets = upcast_pair(inputs, targets, last=4)
    return reduce(weighted(pair_loss(formula, inputs, targets), weight), reduction, normalizer)


def coordinate_loss(
    formula: PairFormula,
    inputs: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    reduction: Reduction,
    normalizer: Tensor | float | None,
) -> Tensor:
    """Weigh and reduce the loss (4, n) that a formula gives the coordinates of n boxes (…, 4).

    Sums over the coordinates of a box are taken without building the elementwise loss where no argument needs it.

    Raises:
        ValueError: shapes differ, or the last dimension is not 4.
        TypeError: boxes are not floating point.
    """
    inputs, targets = upcast_pair(inputs, targets, last=4)
    if reduction == "none" or inputs.ndim == 1 or (weight is not None and weight.ndim == inputs.ndim):
        loss = formula(PairGeometry(inputs.reshape(-1, 4).T, targets.reshape(-1, 4).T)).T.view(inputs.shape)
    else:
        loss = pair_loss(partial(_summed, formula=formula), inputs, targets)
    return reduce(weighted(loss, weight), reduction, normalizer, counted=inputs.numel())


def _summed(pair: PairGeometry, formula: PairFormula) -> Tensor:
    return formula(pair).sum(0)
