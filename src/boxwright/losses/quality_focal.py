"""Classification losses whose target is a quality: quality focal, varifocal, task-aligned focal, matchability-aware."""

from typing import ClassVar

from torch import Tensor

from boxwright.kernels import DistanceModulator, VarifocalModulator
from boxwright.losses.pointwise import ClassificationLoss, ClassWeight, modulated_loss
from boxwright.losses.reduction import Reduction

__all__ = [
    "MatchabilityAwareLoss",
    "QualityFocalLoss",
    "TaskAlignedFocalLoss",
    "VarifocalLoss",
    "matchability_aware_loss",
    "quality_focal_loss",
    "task_aligned_focal_loss",
    "varifocal_loss",
]


def quality_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    beta: float = 2.0,
    from_logits: bool = True,
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`|t - p|**beta * BCE(p, t)`, t the quality (IoU) at the class (Li et al. 2020, arXiv:2006.04388).

    The joint score of GFLv2 (Li et al. 2021, arXiv:2011.12885) is a probability already: `from_logits=False`.
    Arguments as in `sigmoid_focal_loss`; elementwise (…, C), where the original adds up the classes of a prior.

    >>> import torch
    >>> quality_focal_loss(torch.zeros(1, 2), torch.tensor([0]), scores=torch.tensor([0.9]))
    tensor([[0.1109, 0.1733]])
    """
    modulator = DistanceModulator(beta)
    return modulated_loss(inputs, targets, modulator, scores, weight, class_weight, reduction, normalizer, from_logits)


def task_aligned_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    from_logits: bool = True,
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`|t - p|**gamma * BCE(p, t)`, t the normalised alignment (Feng et al. 2021, arXiv:2108.07755).

    The formula of `quality_focal_loss` on another target; TOOD's head gives probabilities (`from_logits=False`) and
    normalises by the sum of the alignments. Arguments as in `sigmoid_focal_loss`.
    """
    modulator = DistanceModulator(gamma)
    return modulated_loss(inputs, targets, modulator, scores, weight, class_weight, reduction, normalizer, from_logits)


def varifocal_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    alpha: float = 0.75,
    gamma: float = 2.0,
    weight_by_target: bool = True,
    detach: bool = False,
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`t * BCE(p, t)` where positive, `alpha p**gamma * BCE(p, 0)` elsewhere (Zhang et al. 2021, arXiv:2008.13367).

    Positive is the labelled class, whatever its score (a score of 0 then has no weight, as in RT-DETR), or a dense
    target above 0 (so that 0 is a negative, as in mmdetection).

    Args:
        inputs: (…, C) logits.
        targets: (…) int64 labels, -1 background, -2 ignored; or (…, C) floating point targets in 0..1.
        alpha: weight of negatives.
        gamma: how strongly easy negatives are turned down, at least 0.
        weight_by_target: whether positives weigh their target, otherwise 1.
        detach: whether `p**gamma` counts as a constant in the gradient, as in RT-DETR and D-FINE.
        scores: (…) soft target of the labelled class, 1 where None.
        weight: (…) per prior or (…, C) per element.
        class_weight: (C,) weight of the priors labelled with a class.
        reduction: "none" gives (…, C); "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of elements that are not ignored.

    Raises:
        TypeError, ValueError: dtypes or shapes that do not fit, with the offending shape.

    >>> import torch
    >>> varifocal_loss(torch.zeros(1, 2), torch.tensor([0]), scores=torch.tensor([0.8]))
    tensor([[0.5545, 0.1300]])
    """
    modulator = VarifocalModulator(gamma, alpha, weight_by_target, detach)
    return modulated_loss(inputs, targets, modulator, scores, weight, class_weight, reduction, normalizer)


def matchability_aware_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    gamma: float = 1.5,
    alpha: float = 1.0,
    detach: bool = True,
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """`BCE(p, q**gamma)` where positive, `alpha p**gamma * BCE(p, 0)` elsewhere (Huang et al. 2024, arXiv:2412.04234).

    Unlike varifocal loss a match of low quality q keeps its full weight. Arguments as in `varifocal_loss`.

    >>> import torch
    >>> matchability_aware_loss(torch.zeros(1, 2), torch.tensor([0]), scores=torch.tensor([0.25]))
    tensor([[0.6931, 0.2451]])
    """
    if targets.is_floating_point():
        targets = targets**gamma
    elif scores is not None:
        scores = scores**gamma
    modulator = VarifocalModulator(gamma, alpha, weight_by_target=False, detach=detach)
    return modulated_loss(inputs, targets, modulator, scores, weight, class_weight, reduction, normalizer)


class QualityFocalLoss(ClassificationLoss):
    """Module of `quality_focal_loss`."""

    takes_quality: ClassVar[bool] = True

    function = staticmethod(quality_focal_loss)

    def __init__(
        self,
        beta: float = 2.0,
        from_logits: bool = True,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction, beta=beta, from_logits=from_logits)


class TaskAlignedFocalLoss(ClassificationLoss):
    """Module of `task_aligned_focal_loss`."""

    takes_quality: ClassVar[bool] = True

    function = staticmethod(task_aligned_focal_loss)

    def __init__(
        self,
        gamma: float = 2.0,
        from_logits: bool = True,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction, gamma=gamma, from_logits=from_logits)


class VarifocalLoss(ClassificationLoss):
    """Module of `varifocal_loss`."""

    takes_quality: ClassVar[bool] = True

    function = staticmethod(varifocal_loss)

    def __init__(
        self,
        alpha: float = 0.75,
        gamma: float = 2.0,
        weight_by_target: bool = True,
        detach: bool = False,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(
            class_weight, reduction, alpha=alpha, gamma=gamma, weight_by_target=weight_by_target, detach=detach
        )


class MatchabilityAwareLoss(ClassificationLoss):
    """Module of `matchability_aware_loss`."""

    takes_quality: ClassVar[bool] = True

    function = staticmethod(matchability_aware_loss)

    def __init__(
        self,
        gamma: float = 1.5,
        alpha: float = 1.0,
        detach: bool = True,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction, gamma=gamma, alpha=alpha, detach=detach)
