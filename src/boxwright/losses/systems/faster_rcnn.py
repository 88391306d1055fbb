"""Faster R-CNN's four-part loss."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.losses.l1 import sigma_smooth_l1_loss
from boxwright.losses.reduction import IGNORED, check_labels, check_shape, reduce, upcast

__all__ = ["StageOutput", "faster_rcnn_loss", "stage_loss"]


class StageOutput(NamedTuple):
    """What one stage predicted and should have predicted.

    Attributes:
        logits: (…, C) class logits; column 0 is background.
        labels: (…) int64 column, -1 or -2 ignored.
        deltas: (N, …) box parameters of N images (proposals) or N regions (second stage).
        delta_targets: the same shape.
        inside_weight: the same shape, 1 for the parameters that count.
        outside_weight: the same shape, the share of each in the loss.
    """

    logits: Tensor
    labels: Tensor
    deltas: Tensor
    delta_targets: Tensor
    inside_weight: Tensor
    outside_weight: Tensor


def faster_rcnn_loss(
    proposals: StageOutput, regions: StageOutput, *, proposal_sigma: float = 3.0, region_sigma: float = 1.0
) -> dict[str, Tensor]:
    """Loss of both stages trained together (Ren et al. 2015, arXiv:1506.01497); the total is the plain sum.

    Returns:
        Scalars `rpn_class`, `rpn_box`, `roi_class` and `roi_box`.

    Raises:
        ValueError: shapes that do not fit, or a label that is no column.
    """
    rpn_class, rpn_box = stage_loss(proposals, sigma=proposal_sigma)
    roi_class, roi_box = stage_loss(regions, sigma=region_sigma)
    return {"rpn_class": rpn_class, "rpn_box": rpn_box, "roi_class": roi_class, "roi_box": roi_box}


def stage_loss(stage: StageOutput, *, sigma: float) -> tuple[Tensor, Tensor]:
    """Cross-entropy, the mean over labels that are not ignored, and smooth L1, the sum over N."""
    check_shape("labels", stage.labels, stage.logits.shape[:-1])
    check_labels(stage.labels, IGNORED, stage.logits.shape[-1], "-2 or -1 (ignored) or ")
    counted = stage.labels >= 0
    logits, labels = upcast(stage.logits).flatten(0, -2), stage.labels.long().clamp(min=0).flatten()
    entropy = F.cross_entropy(logits, labels, reduction="none").view(counted.shape)
    classification = reduce(torch.where(counted, entropy, 0), "mean", normalizer=counted.sum())
    box = sigma_smooth_l1_loss(
        stage.deltas,
        stage.delta_targets,
        sigma=sigma,
        inside_weight=stage.inside_weight,
        weight=stage.outside_weight,
        reduction="mean",
        normalizer=len(stage.deltas),
    )
    return classification, box
