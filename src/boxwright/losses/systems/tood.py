"""The losses of TOOD in its two stages: before the task-aligned assignment, and with it."""

import torch
from torch import Tensor

from boxwright.distributed import mean_over_processes
from boxwright.losses.focal import sigmoid_focal_loss
from boxwright.losses.iou import giou_loss
from boxwright.losses.quality_focal import task_aligned_focal_loss
from boxwright.losses.reduction import check_shape

__all__ = ["tood_loss", "tood_warmup_loss"]

EPS = 1e-6
# a sum of alignments below it divides by 1, as nothing at all does
LEAST = 1e-12


def tood_loss(
    probabilities: Tensor,
    predicted: Tensor,
    labels: Tensor,
    boxes: Tensor,
    metrics: Tensor,
    *,
    gamma: float = 2.0,
    box_factor: float = 2.0,
    from_logits: bool = False,
) -> dict[str, Tensor]:
    """Task-aligned focal loss and GIoU, both weighed and normalised by alignment (Feng et al. 2021, arXiv:2108.07755).

    Args:
        probabilities: (…, C) class scores in 0..1, or logits where `from_logits` is True.
        predicted: (…, 4) xyxy predicted boxes.
        labels: (…) int64, -1 background, -2 ignored.
        boxes: (…, 4) xyxy of the matched object, in the same units; any value where not positive.
        metrics: (…) normalised alignment, 0 where not positive; its global sum divides both terms (below 1e-12: 1).
        gamma: exponent of the focal loss.
        box_factor: factor of the GIoU loss.
        from_logits: whether `probabilities` are logits.

    Returns:
        Scalars `classification` and `box`.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_shape("labels", labels, probabilities.shape[:-1])
    check_shape("metrics", metrics, labels.shape)
    positive = labels >= 0
    metrics = metrics.detach()
    classification = task_aligned_focal_loss(
        probabilities,
        labels,
        gamma=gamma,
        from_logits=from_logits,
        scores=metrics,
        reduction="mean",
        normalizer=_share(metrics),
    )
    box = _box_loss(predicted, boxes, metrics * positive)
    return {"classification": classification, "box": box_factor * box}


def tood_warmup_loss(
    probabilities: Tensor,
    predicted: Tensor,
    labels: Tensor,
    boxes: Tensor,
    centers: Tensor,
    *,
    alpha: float = 0.25,
    gamma: float = 2.0,
    box_factor: float = 2.0,
    from_logits: bool = False,
    label_weight: Tensor | None = None,
) -> dict[str, Tensor]:
    """Focal loss by the number of positives and GIoU by centerness: TOOD's first epochs, with ATSS's assignment.

    Arguments as in `tood_loss`; `centers` (…, 2) of the priors and `label_weight` (…) of the classification loss.
    """
    check_shape("labels", labels, probabilities.shape[:-1])
    check_shape("boxes", boxes, (*labels.shape, 4))
    check_shape("centers", centers, (*labels.shape, 2), shared=True)
    positive = labels >= 0
    classification = sigmoid_focal_loss(
        probabilities,
        labels,
        alpha=alpha,
        gamma=gamma,
        from_logits=from_logits,
        weight=label_weight,
        reduction="mean",
        normalizer=mean_over_processes(positive.sum()),
    )
    before, after = centers - boxes[..., :2], boxes[..., 2:] - centers
    ratio = torch.minimum(before, after).clamp(min=0) / torch.maximum(before, after).clamp(min=EPS)
    box = _box_loss(predicted, boxes, torch.where(positive, ratio.prod(-1).sqrt(), 0))
    return {"classification": classification, "box": box_factor * box}


def _box_loss(predicted: Tensor, boxes: Tensor, weight: Tensor) -> Tensor:
    check_shape("predicted", predicted, (*weight.shape, 4))
    check_shape("boxes", boxes, predicted.shape)
    goal = torch.where((weight > 0).unsqueeze(-1), boxes, predicted.detach())
    return giou_loss(predicted, goal, eps=EPS, weight=weight, reduction="mean", normalizer=_share(weight))


def _share(weight: Tensor) -> Tensor:
    """One process's share of the sum of weights, 1 where there is nothing to speak of."""
    share = mean_over_processes(weight.sum())
    return torch.where(share < LEAST, 1, share)
