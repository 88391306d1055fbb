"""The losses of DETR and its descendants after one-to-one matching."""

import torch
from torch import Tensor

from boxwright.boxes.formats import cxcywh_to_xyxy
from boxwright.boxes.iou import aligned_iou
from boxwright.distributed import mean_over_processes
from boxwright.losses.iou import giou_loss
from boxwright.losses.l1 import l1_loss
from boxwright.losses.pointwise import ClassificationLoss
from boxwright.losses.reduction import check_shape, upcast

__all__ = ["set_prediction_loss"]


def set_prediction_loss(
    logits: Tensor,
    predicted: Tensor,
    labels: Tensor,
    boxes: Tensor,
    classification: ClassificationLoss,
    *,
    background_weight: float | None = None,
    normalizer: Tensor | float | None = None,
) -> dict[str, Tensor]:
    """Classification, L1 and GIoU of Q queries, each matched with one object or none; every term unweighted.

    DETR (Carion et al. 2020, arXiv:2005.12872) takes `SoftmaxCrossEntropyLoss()` with `background_weight=0.1`, which
    is normalised by its own weights; RT-DETR (Zhao et al. 2023, arXiv:2304.08069) `VarifocalLoss(detach=True)` with the
    IoU of the match as target; Deformable DETR `SigmoidFocalLoss()`, which takes hard targets.

    Args:
        logits: (B, Q, C).
        predicted: (B, Q, 4) cx, cy, w, h as fractions of the image.
        labels: (B, Q) int64 class of the matched object, -1 where none.
        boxes: (B, Q, 4) cx, cy, w, h of the matched object; any value where none.
        classification: the loss of the logits; quality losses get the IoU as `scores`.
        background_weight: weight of unmatched queries; the loss is then divided by the sum of weights.
        normalizer: divisor of the other terms; where None the number of matches per process, at least 1.

    Returns:
        Scalars `classification`, `l1`, `giou`.

    Raises:
        ValueError: shapes that do not fit.
    """
    check_shape("labels", labels, logits.shape[:-1])
    check_shape("predicted", predicted, (*labels.shape, 4))
    check_shape("boxes", boxes, predicted.shape)
    predicted, matched = upcast(predicted), labels >= 0
    boxes = torch.where(matched.unsqueeze(-1), boxes, predicted.detach())
    if normalizer is None:
        normalizer = mean_over_processes(matched.sum()).clamp(min=1)
    corners, goal = cxcywh_to_xyxy(predicted), cxcywh_to_xyxy(boxes)
    quality = aligned_iou(corners.detach(), goal) if classification.takes_quality else None
    if background_weight is None:
        cost = classification(logits, labels, scores=quality, normalizer=normalizer)
    else:
        share = torch.where(matched, 1.0, background_weight)
        cost = classification(logits, labels, scores=quality, weight=share, normalizer=share.sum())
    return {
        "classification": cost,
        "l1": l1_loss(predicted, boxes, reduction="mean", normalizer=normalizer),
        "giou": giou_loss(corners, goal, weight=matched, reduction="mean", normalizer=normalizer),
    }
