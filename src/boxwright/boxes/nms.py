"""Suppression of duplicate detections: hard (torchvision's kernel) and soft, for padded batches."""

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from boxwright.boxes.iou import box_iou
from boxwright.devices import widest
from boxwright.structures import Detections

__all__ = ["multiclass_nms", "soft_nms", "survivors"]


@torch.no_grad()
def multiclass_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    score_threshold: float = 0.0,
    iou_threshold: float = 0.5,
    max_detections: int = 100,
) -> Detections:
    """Keep the best boxes of each image and class; drop those that overlap a better one by more than the threshold.

    Greedy by falling score, the first of equal scores first; a box whose overlap equals the threshold stays.

    Args:
        boxes: (B, K, 4) xyxy.
        scores: (B, K); entries at or below `score_threshold` do not take part, so padding has score 0 or -inf.
        labels: (B, K) int64; only boxes of one label suppress each other.
        score_threshold: lowest score, exclusive.
        iou_threshold: largest overlap of two boxes of one class that both stay.
        max_detections: K of the result.
    """
    kept, counts = [], []
    for image_boxes, image_scores, image_labels in zip(boxes, scores.float(), labels, strict=True):
        candidates = (image_scores > score_threshold).nonzero().squeeze(1)
        image_boxes, image_scores = image_boxes[candidates], image_scores[candidates]
        keep = survivors(image_boxes, image_scores, image_labels[candidates], iou_threshold).sort().values
        # again by score, because batched_nms leaves the order of equal scores open
        keep = keep[image_scores[keep].argsort(stable=True, descending=True)][:max_detections]
        counts.append(len(keep))
        kept.append(functional.pad(candidates[keep], (0, max_detections - len(keep))))
    index = torch.stack(kept) if kept else labels.new_zeros(0, max_detections)
    return _pick(boxes, scores, labels, index, torch.tensor(counts, dtype=torch.int64, device=boxes.device))


@torch.no_grad()
def soft_nms(
    boxes: Tensor,
    scores: Tensor,
    labels: Tensor,
    *,
    method: Literal["linear", "gaussian"] = "gaussian",
    score_threshold: float = 0.05,
    iou_threshold: float = 0.5,
    sigma: float = 0.5,
    max_detections: int = 100,
) -> Detections:
    """Lower the scores of boxes that overlap a better one of their class instead of dropping them.

    Bodla et al. 2017, arXiv 1704.04503. "linear" multiplies a score by 1 - IoU where IoU >= `iou_threshold`,
    "gaussian" by exp(-IoU² / sigma) everywhere. The first of equal scores goes first; the result is ordered by
    the lowered scores. One step per detection for the whole batch, no loop over images or classes.

    Args:
        boxes: (B, K, 4) xyxy.
        scores: (B, K).
        labels: (B, K) int64.
        method: how a score falls with the overlap.
        score_threshold: a box whose score falls below this is dropped.
        iou_threshold: see `method`.
        sigma: see `method`.
        max_detections: K of the result.

    Raises:
        ValueError: the method is unknown.
    """
    if method not in ("linear", "gaussian"):
        raise ValueError(f"method must be 'linear' or 'gaussian', got {method!r}")
    left = scores.float().where(scores >= score_threshold, -torch.inf)  # -inf takes part no longer
    picked = labels.new_zeros(len(boxes), max_detections)
    lowered = left.new_full((len(boxes), max_detections), -torch.inf)
    for step in range(min(max_detections, boxes.shape[1])):
        score, index = left.max(dim=1, keepdim=True)  # (B, 1)
        picked[:, step : step + 1], lowered[:, step : step + 1] = index, score
        best = boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4))
        overlap = box_iou(best, boxes).squeeze(1).nan_to_num()  # (B, K)
        if method == "linear":
            factor = torch.where(overlap >= iou_threshold, 1 - overlap, 1.0)
        else:
            factor = torch.exp(-overlap.square() / sigma)
        rival = (labels == labels.gather(1, index)) & torch.isfinite(left)
        left = torch.where(rival, left * factor, left).scatter(1, index, -torch.inf)
        left = left.masked_fill(left < score_threshold, -torch.inf)
    count = torch.isfinite(lowered).sum(dim=1)
    detections = _pick(boxes, scores, labels, picked, count)
    return Detections(detections.boxes, lowered.clamp(min=0), detections.labels, count)


def survivors(boxes: Tensor, scores: Tensor, groups: Tensor, iou_threshold: float) -> Tensor:
    """Indices of the boxes (N, 4) xyxy that greedy suppression within each group (N,) leaves, by falling score."""
    from torchvision.ops import batched_nms  # the only use of torchvision in this package; keep its import lazy

    wide = widest(boxes.device)  # as batched_nms may move each group by a multiple of the largest coordinate
    kept: Tensor = batched_nms(boxes.to(wide), scores.to(wide), groups, iou_threshold)
    return kept


def _pick(boxes: Tensor, scores: Tensor, labels: Tensor, index: Tensor, count: Tensor) -> Detections:
    """Gather the detections at `index` (B, K), of which the first `count` (B,) are real; zero the others."""
    if boxes.shape[1] == 0:  # nothing to gather from: one row of padding
        boxes, scores, labels = (
            torch.cat([t, t.new_zeros(len(t), 1, *t.shape[2:])], dim=1) for t in (boxes, scores, labels)
        )
    real = torch.arange(index.shape[1], device=index.device) < count.unsqueeze(1)  # (B, K)
    return Detections(
        boxes=boxes.gather(1, index.unsqueeze(-1).expand(-1, -1, 4)) * real.unsqueeze(-1),
        scores=scores.gather(1, index) * real,
        labels=labels.gather(1, index) * real,
        count=count,
    )
