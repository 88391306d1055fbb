"""SSD's loss: smooth L1 for matched priors, cross-entropy for these and the hardest background."""

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.distributed import mean_over_processes
from boxwright.losses.l1 import smooth_l1_loss
from boxwright.losses.reduction import IGNORED, check_labels, check_shape, reduce, upcast

__all__ = ["hard_negatives", "multibox_loss"]


def multibox_loss(
    deltas: Tensor, logits: Tensor, delta_targets: Tensor, labels: Tensor, *, negative_ratio: float = 3.0
) -> dict[str, Tensor]:
    """Loss of SSD (Liu et al. 2016, arXiv:1512.02325).

    Args:
        deltas: (B, P, 4) predicted box parameters.
        logits: (B, P, 1 + C) class logits; column 0 is background.
        delta_targets: (B, P, 4) encoded boxes of the matched objects; read where the label is above 0 only.
        labels: (B, P) int64 column of the matched object's class, 0 background, -1 or -2 ignored.
        negative_ratio: how many background priors count per matched prior of the same image, the hardest first.

    Returns:
        Scalars `box` and `class`, sums over the number of matched priors of the whole batch over all processes. Without
        any both are 0 (background is mined per matched prior).

    Raises:
        ValueError: shapes that do not fit, or a label that is no column.
    """
    check_shape("labels", labels, logits.shape[:-1])
    check_labels(labels, IGNORED, logits.shape[-1], "-2 or -1 (ignored) or ")
    check_shape("deltas", deltas, (*labels.shape, 4))
    check_shape("delta_targets", delta_targets, deltas.shape)
    positive = labels > 0
    loss = F.cross_entropy(upcast(logits).flatten(0, 1), labels.long().clamp(min=0).flatten(), reduction="none")
    loss = loss.view(labels.shape)
    kept = positive | hard_negatives(loss, positive, labels == 0, ratio=negative_ratio)
    count = mean_over_processes(positive.sum())
    targets = torch.where(positive.unsqueeze(-1), delta_targets, deltas.detach())
    return {
        "box": smooth_l1_loss(deltas, targets, reduction="mean", normalizer=count),
        "class": reduce(torch.where(kept, loss, 0), "mean", normalizer=count),
    }


def hard_negatives(loss: Tensor, positive: Tensor, negative: Tensor, *, ratio: float = 3.0) -> Tensor:
    """Background with the largest loss (B, P): per image at most `ratio` times as many as there are positives.

    Online hard example mining as SSD has it; ties go to the earlier prior.

    Args:
        loss: (B, P) how wrong each prior is about background.
        positive: (B, P) bool, matched priors.
        negative: (B, P) bool, priors that may be chosen.
        ratio: negatives per positive.
    """
    order = torch.where(negative, loss, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = order.argsort(dim=1)
    return negative & (rank < ratio * positive.sum(1, keepdim=True))
