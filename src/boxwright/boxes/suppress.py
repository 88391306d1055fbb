"""Suppression of duplicates as one operator, which a traced graph keeps whole."""

import torch
from torch import Tensor

from boxwright.boxes.nms import multiclass_nms

__all__ = ["suppress"]


@torch.library.custom_op("boxwright::suppress", mutates_args=())
def suppress(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, iou_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the fields of `multiclass_nms`: boxes (B, K, 4), scores (B, K), labels (B, K), count (B,).

    Args:
        boxes: (B, S, 4) xyxy candidates.
        scores: (B, S); those that are 0 do not take part.
        labels: (B, S) int64, below `classes`.
        classes: C.
        iou_threshold: largest overlap of two boxes of one class that both stay.
        max_detections: K.
    """
    found = multiclass_nms(boxes, scores, labels, iou_threshold=iou_threshold, max_detections=max_detections)
    return found.boxes, found.scores, found.labels, found.count


@suppress.register_fake
def _(
    boxes: Tensor, scores: Tensor, labels: Tensor, classes: int, iou_threshold: float, max_detections: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    shape = (boxes.shape[0], max_detections)
    return boxes.new_empty(*shape, 4), scores.new_empty(shape), labels.new_empty(shape), labels.new_empty(shape[0])
