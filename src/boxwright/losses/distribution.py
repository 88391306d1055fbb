"""Losses of a side's distance predicted as a distribution over bins: focal (DFL) and fine-grained (D-FINE)."""

from typing import ClassVar

import torch
from torch import Tensor

from boxwright.boxes.bins import weighting_function
from boxwright.losses.boxes import BoxLoss
from boxwright.losses.reduction import Reduction, check_same_shape, check_shape, reduce, upcast, weighted

__all__ = [
    "DistributionFocalLoss",
    "FineGrainedLocalizationLoss",
    "bin_targets",
    "distribution_focal_loss",
    "fine_grained_localization_loss",
    "integral",
    "localization_distillation_loss",
    "weighting_function",
]


def distribution_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy to the two bins around the target (Li et al. 2020, arXiv:2006.04388).

    `-(l + 1 - y) ln p_l - (y - l) ln p_{l+1}` with `l = floor(y)`.

    Args:
        inputs: (…, K + 1) logits of the bins 0 … K.
        targets: (…) distances in bins; clipped to 0 … K.
        weight: (…) per side, or without the last dimension (per box).
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of sides.

    Raises:
        ValueError: `targets` has not the shape of `inputs` without the bins.

    >>> distribution_focal_loss(torch.zeros(1, 4), torch.tensor([1.5]))
    tensor([1.3863])
    """
    top = inputs.shape[-1] - 1
    distance = targets.to(_wide(inputs))
    # a target on the last or first bin keeps its gradient, which clamp would take away
    clipped = distance.detach().clamp(0, top)
    distance = torch.where(distance == clipped, distance, clipped)
    left = clipped.floor().clamp(max=top - 1)
    loss = _two_bin_cross_entropy(inputs, left, distance - left)
    return reduce(weighted(loss, weight), reduction, normalizer)


def fine_grained_localization_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    values: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """DFL over bins that lie denser near 0 (Peng et al. 2024, arXiv:2410.13842).

    Args:
        inputs: (…, K + 1) logits of the bins.
        targets: (…) distances in the units of `values`; clipped to their range.
        values: (K + 1,) ascending values of the bins, see `weighting_function`.
        weight: (…) per side, or without the last dimension: the overlap of the box in D-FINE.
        reduction: "none", "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of sides.

    Raises:
        ValueError: shapes that do not fit, or another number of bins than of values.
    """
    if values.shape != inputs.shape[-1:]:
        raise ValueError(f"values {tuple(values.shape)} must be one per bin of inputs {tuple(inputs.shape)}")
    left, right_weight = bin_targets(targets.to(_wide(inputs)), values)
    return reduce(weighted(_two_bin_cross_entropy(inputs, left, right_weight), weight), reduction, normalizer)


def localization_distillation_loss(
    inputs: Tensor, teacher: Tensor, matched: Tensor, *, weight: Tensor, temperature: float = 5.0
) -> Tensor:
    """Decoupled distillation of the last layer's distributions into earlier ones (Peng et al. 2024, arXiv:2410.13842).

    The mean divergence of matched and of unmatched queries, weighed against each other by the roots of their numbers.

    Args:
        inputs: (B, Q, S, K + 1) logits of the student for S sides.
        teacher: the same of the teacher; carries no gradient.
        matched: (B, Q) bool, queries that are matched with an object.
        weight: (B, Q) overlap of matched queries, confidence of the teacher for the others.
        temperature: divides the logits; the loss is multiplied by its square.

    Returns:
        Scalar.

    Raises:
        TypeError: `matched` is not bool.
        ValueError: shapes that do not fit, or a temperature that is not positive.
    """
    if not temperature > 0:
        raise ValueError(f"temperature must be positive, got {temperature}")
    check_same_shape(inputs, teacher)
    check_shape("matched", matched, inputs.shape[:-2])
    if matched.dtype != torch.bool:
        raise TypeError(f"matched must be bool, got {matched.dtype}")
    check_shape("weight", weight, inputs.shape[:-2])
    student, teacher = (upcast(logits) / temperature for logits in (inputs, teacher.detach()))
    log_teacher = teacher.log_softmax(-1)
    divergence = (log_teacher.exp() * (log_teacher - student.log_softmax(-1))).sum(-1).mean(-1)
    divergence = divergence * weight.detach() * temperature**2
    groups = torch.stack([matched, ~matched]).to(divergence.dtype)
    count = groups.sum((1, 2))
    mean = (groups * divergence).sum((1, 2)) / count.clamp(min=1)
    share = count.sqrt()
    return (mean * share).sum() / share.sum().clamp(min=1)


def integral(inputs: Tensor, values: Tensor | None = None) -> Tensor:
    """Expected value (…) of distributions given as logits (…, K + 1).

    Args:
        inputs: logits of the bins.
        values: (K + 1,) values of the bins; 0 … K where None.
    """
    logits = upcast(inputs)
    if values is None:
        values = torch.arange(inputs.shape[-1], device=inputs.device)
    # no product of matrices: autocast, and TF32 on a GPU, would round it
    return (logits.softmax(-1) * values.to(logits.dtype)).sum(-1)


def bin_targets(targets: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Index (…) of the bin left of each target, and the weight (…) of the bin right of it; the ends are clipped."""
    values = values.to(targets)
    left = (torch.searchsorted(values, targets.detach().contiguous(), right=True) - 1).clamp(0, len(values) - 2)
    low, high = values[left], values[left + 1]
    return left, ((targets - low) / (high - low)).clamp(0, 1)


def _wide(inputs: Tensor) -> torch.dtype:
    return torch.promote_types(inputs.dtype, torch.float32)


def _two_bin_cross_entropy(inputs: Tensor, left: Tensor, right_weight: Tensor) -> Tensor:
    """Cross-entropy (…) of logits (…, K + 1) to weight 1 - w on bin `left` and w on the next."""
    if inputs.shape[:-1] != left.shape:
        raise ValueError(
            f"targets must have the inputs' shape without the bins, {tuple(inputs.shape[:-1])}, got {tuple(left.shape)}"
        )
    if inputs.shape[-1] < 2:
        raise ValueError(f"inputs must have two bins or more, got shape {tuple(inputs.shape)}")
    logits = upcast(inputs)
    index = left.to(torch.int64).unsqueeze(-1)
    low, high = (logits.gather(-1, index + step).squeeze(-1) for step in (0, 1))
    return logits.logsumexp(-1) - low - right_weight * (high - low)


class DistributionFocalLoss(BoxLoss):
    """Module of `distribution_focal_loss`."""

    space: ClassVar[str] = "distribution"
    function = staticmethod(distribution_focal_loss)

    def __init__(self, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)


class FineGrainedLocalizationLoss(BoxLoss):
    """Module of `fine_grained_localization_loss` with the bins of `weighting_function`, for `FineGrainedCoder`."""

    space: ClassVar[str] = "distribution"
    values: Tensor

    def __init__(self, bins: int = 32, up: float = 0.5, scale: float = 4.0, reduction: Reduction = "mean") -> None:
        super().__init__(reduction)
        self.register_buffer("values", weighting_function(bins, up, scale), persistent=False)

    def forward(
        self, inputs: Tensor, targets: Tensor, *, weight: Tensor | None = None, normalizer: Tensor | float | None = None
    ) -> Tensor:
        """See `BoxLoss.forward`."""
        return fine_grained_localization_loss(
            inputs, targets, values=self.values, weight=weight, reduction=self.reduction, normalizer=normalizer
        )
