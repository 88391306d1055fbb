"""IoU loss that spends its gradient on boxes of ordinary quality, judged by a running mean."""

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.distributed import all_reduce_sum
from boxwright.kernels.overlap import PairGeometry, floor
from boxwright.losses.boxes import BoxLoss, overlap_loss
from boxwright.losses.iou import TINY, iou_loss, one_minus_iou
from boxwright.losses.reduction import Reduction, weighted

__all__ = ["WiseIoULoss", "wise_iou_loss"]


def wise_iou_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    mean: Tensor | float = 1.0,
    alpha: float = 1.9,
    delta: float = 3.0,
    eps: float = 1e-7,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Wise-IoU, version 3 (Tong et al. 2023, arXiv:2301.10051).

    `b / (delta alpha^(b - delta)) exp(distance² / diagonal²) (1 - IoU)` with the outlier degree `b = (1 - IoU) / mean`;
    b and the diagonal carry no gradient.

    Args:
        inputs: (…, 4) xyxy predictions.
        targets: (…, 4) xyxy in the same units.
        mean: running mean of 1 - IoU, a scalar.
        alpha: how quickly outliers lose weight.
        delta: outlier degree whose weight is 1.
        eps: least divisor.
        weight: (…) per pair.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of pairs.
    """
    formula = partial(_wise_iou, mean=mean, alpha=alpha, delta=delta, eps=eps)
    return overlap_loss(formula, inputs, targets, weight, reduction, normalizer)


def _wise_iou(pair: PairGeometry, mean: Tensor | float, alpha: float, delta: float, eps: float) -> Tensor:
    loss = one_minus_iou(pair, eps)
    diagonal = floor(pair.squared_diagonal.detach(), eps)
    # the ratio is below 1 for boxes; only an inverted prediction can be further away than its own hull
    distance = F.hardtanh(pair.squared_distance / diagonal)
    outlier = loss.detach() / (mean + TINY)
    focus = outlier / (delta * alpha ** (outlier - delta))
    return focus * distance.exp() * loss


class WiseIoULoss(BoxLoss):
    """Module of `wise_iou_loss` that keeps the running mean, over all processes, of the boxes with a weight above 0.

    Args:
        alpha: see `wise_iou_loss`.
        delta: see `wise_iou_loss`.
        momentum: share of a step's mean in the running mean; moves in training mode only.
        eps: see `wise_iou_loss`.
        reduction: "none", "sum", "mean" or "image".
    """

    mean: Tensor

    def __init__(
        self,
        alpha: float = 1.9,
        delta: float = 3.0,
        momentum: float = 0.01,
        eps: float = 1e-7,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(reduction, alpha=alpha, delta=delta, eps=eps)
        self.momentum = momentum
        self.register_buffer("mean", torch.ones((), dtype=torch.float32))

    def forward(
        self, inputs: Tensor, targets: Tensor, *, weight: Tensor | None = None, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """See `BoxLoss.forward`."""
        if self.training:
            self._update(inputs, targets, weight)
        return wise_iou_loss(
            inputs,
            targets,
            mean=self.mean,
            weight=weight,
            reduction=self.reduction,
            normalizer=normalizer,
            **self.hyper,
        )

    @torch.no_grad()
    def _update(self, inputs: Tensor, targets: Tensor, weight: Tensor | None) -> None:
        loss = iou_loss(inputs, targets)
        counted = (weighted(torch.ones_like(loss), weight) > 0).to(loss.dtype)
        total, count = all_reduce_sum(torch.stack([(loss * counted).sum(), counted.sum()])).to(self.mean.dtype)
        mean = total / count.clamp(min=1)
        self.mean.lerp_(torch.where(count > 0, mean, self.mean), self.momentum)
