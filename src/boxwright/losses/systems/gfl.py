"""The losses of GFL and GFLv2: quality focal on classes, GIoU and distribution focal on boxes."""

import torch
from torch import Tensor

from boxwright.boxes.iou import aligned_iou
from boxwright.distributed import mean_over_processes
from boxwright.losses.distribution import distribution_focal_loss, integral
from boxwright.losses.iou import giou_loss
from boxwright.losses.pointwise import check_targets
from boxwright.losses.quality_focal import quality_focal_loss
from boxwright.losses.reduction import check_shape, upcast

__all__ = ["gfl_loss"]

# distances end just below the last bin, as published
TOP_MARGIN = 0.1
EPS = 1e-6


def gfl_loss(
    scores: Tensor,
    distributions: Tensor,
    labels: Tensor,
    boxes: Tensor,
    centers: Tensor,
    strides: Tensor,
    *,
    from_logits: bool = True,
    beta: float = 2.0,
    box_factor: float = 2.0,
    distribution_factor: float = 0.25,
    label_weight: Tensor | None = None,
    normalizer: Tensor | float | None = None,
) -> dict[str, Tensor]:
    """Generalized focal loss (Li et al. 2020, arXiv:2006.04388) and its V2 (Li et al. 2021, arXiv:2011.12885).

    The class target is the IoU of the predicted box; a positive's box counts by its best predicted class score, and
    both box terms are divided by the sum of those over the global batch (where the original has 0 / 0 without a
    positive, they are 0).

    Args:
        scores: (…, C) class logits (GFL), or joint scores in 0..1 where `from_logits` is False (GFLv2).
        distributions: (…, 4, K + 1) logits of the distances left, top, right, bottom in strides.
        labels: (…) int64, -1 background, -2 ignored.
        boxes: (…, 4) xyxy of the matched object in pixels; any value where not positive.
        centers: (…, 2) of the priors in pixels.
        strides: (…) pixels per cell.
        from_logits: whether `scores` are logits.
        beta: exponent of the quality focal loss.
        box_factor: factor of the GIoU loss.
        distribution_factor: factor of the distribution focal loss.
        label_weight: (…) weight of the classification loss.
        normalizer: divisor of the classification loss; the number of positives per process where None.

    Returns:
        Scalars `classification`, `box`, `distribution`.

    Raises:
        ValueError: shapes that do not fit; `centers` and `strides` may lack dimensions that the priors share.
    """
    check_targets(scores, labels)
    check_shape("distributions", distributions, (*labels.shape, 4, distributions.shape[-1]))
    check_shape("boxes", boxes, (*labels.shape, 4))
    check_shape("centers", centers, (*labels.shape, 2), shared=True)
    check_shape("strides", strides, labels.shape, shared=True)
    positive = labels >= 0
    points = centers / strides.unsqueeze(-1)
    goal = torch.where(positive.unsqueeze(-1), boxes / strides.unsqueeze(-1), points.repeat_interleave(2, -1))
    distance = integral(distributions)
    predicted = torch.cat([points - distance[..., :2], points + distance[..., 2:]], dim=-1)
    quality = aligned_iou(predicted.detach(), goal, eps=EPS)
    best = upcast(scores.detach()).amax(-1)
    weight = (best.sigmoid() if from_logits else best) * positive
    share = mean_over_processes(weight.sum())
    if normalizer is None:
        normalizer = mean_over_processes(positive.sum())
    sides = torch.cat([points - goal[..., :2], goal[..., 2:] - points], dim=-1)
    sides = sides.clamp(0, distributions.shape[-1] - 1 - TOP_MARGIN)
    return {
        "classification": quality_focal_loss(
            scores,
            labels,
            beta=beta,
            from_logits=from_logits,
            scores=quality,
            weight=label_weight,
            reduction="mean",
            normalizer=normalizer,
        ),
        "box": box_factor * giou_loss(predicted, goal, eps=EPS, weight=weight, reduction="mean", normalizer=share),
        "distribution": distribution_factor
        * distribution_focal_loss(distributions, sides, weight=weight, reduction="mean", normalizer=4 * share),
    }
