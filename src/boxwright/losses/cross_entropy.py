"""Cross-entropy, the sigmoid and the softmax form, with hard or soft targets."""

from typing import Literal, get_args

import torch
from torch import Tensor

from boxwright.kernels import SMALLEST_BASE, DistanceModulator, dense_targets, modulated_cross_entropy
from boxwright.losses.pointwise import (
    ClassificationLoss,
    ClassWeight,
    check_exponent,
    check_targets,
    finish,
    modulated_loss,
)
from boxwright.losses.reduction import BACKGROUND, Reduction, check_choice, upcast

__all__ = [
    "Background",
    "SigmoidCrossEntropyLoss",
    "SoftmaxCrossEntropyLoss",
    "sigmoid_cross_entropy",
    "softmax_cross_entropy",
    "softmax_loss",
]

Background = Literal["last", "first", "none"]


def sigmoid_cross_entropy(
    inputs: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    from_logits: bool = True,
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Binary cross-entropy per class; with an alignment as `scores` the aligned BCE of one-stage detectors.

    Args:
        inputs: (…, C) logits, or probabilities where `from_logits` is False.
        targets: (…) int64 labels, -1 background, -2 ignored; or (…, C) floating point targets in 0..1.
        label_smoothing: e draws every target towards 1/2, `t (1 - e) + e / 2` (builds the (…, C) target).
        from_logits: whether `inputs` are logits.
        scores: (…) soft target of the labelled class, 1 where None.
        weight: (…) per prior or (…, C) per element.
        class_weight: (C,) weight of the priors labelled with a class.
        reduction: "none" gives (…, C); "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of elements that are not ignored.

    Raises:
        TypeError, ValueError: dtypes, shapes or hyper-parameters that do not fit.

    >>> sigmoid_cross_entropy(torch.zeros(1, 2), torch.tensor([1]))
    tensor([[0.6931, 0.6931]])
    """
    _check_smoothing(label_smoothing)
    modulator = DistanceModulator(0.0)
    if not label_smoothing:
        return modulated_loss(
            inputs, targets, modulator, scores, weight, class_weight, reduction, normalizer, from_logits
        )
    check_targets(inputs, targets, scores, class_weight)
    x = upcast(inputs)
    t, positive = dense_targets(x, targets, scores)
    t = t * (1 - label_smoothing) + label_smoothing / 2
    loss = modulated_cross_entropy(x, t, positive, modulator, from_logits)
    return finish(loss, targets, weight, class_weight, reduction, normalizer, inputs.shape[-1])


def softmax_cross_entropy(
    inputs: Tensor,
    targets: Tensor,
    *,
    label_smoothing: float = 0.0,
    background: Background = "last",
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy of one distribution over classes, `-sum t log softmax(input)`; one value per prior.

    Args:
        inputs: (…, C) logits, one column of them for background unless `background` is "none".
        targets: (…) int64 labels from 0, -1 background, -2 ignored; or (…, C) floating point targets in 0..1.
        label_smoothing: e spreads a share of every target evenly, `t (1 - e) + e sum(t) / C`.
        background: the column of background: "last" (label c is column c), "first" (label c is column c + 1), or
            "none": there is no such column and labels below 0 cost nothing.
        scores: (…) soft target of the label, 1 where None.
        weight: (…) per prior.
        class_weight: one weight per class for the priors labelled with it; background has weight 1.
        reduction: "none" gives (…); "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of priors that are not ignored.

    Raises:
        TypeError, ValueError: dtypes, shapes or hyper-parameters that do not fit.

    >>> softmax_cross_entropy(torch.zeros(2, 3), torch.tensor([0, -2]))
    tensor([1.0986, 0.0000])
    """
    _check_smoothing(label_smoothing)
    return softmax_loss(
        inputs, targets, scores, weight, class_weight, reduction, normalizer, background, label_smoothing
    )


def _check_smoothing(share: float) -> None:
    if not 0 <= share <= 1:
        raise ValueError(f"label_smoothing is a share from 0 to 1, got {share}")


def softmax_loss(
    inputs: Tensor,
    targets: Tensor,
    scores: Tensor | None,
    weight: Tensor | None,
    class_weight: Tensor | None,
    reduction: Reduction,
    normalizer: Tensor | float | None,
    background: Background,
    label_smoothing: float = 0.0,
    gamma: float = 0.0,
    alpha: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy and focal loss over a softmax: `-alpha t (1 - p)**gamma log p`, summed over the targets."""
    check_choice("background", background, get_args(Background))
    check_exponent(gamma)
    check_targets(inputs, targets, scores, class_weight, background_columns=int(background != "none"))
    log_p = upcast(inputs).log_softmax(-1)
    if targets.is_floating_point():
        t = targets.detach().to(log_p.dtype)
        share, loss = t.sum(-1), (t * _focal(log_p, gamma, alpha)).sum(-1)
    else:
        column = column_of(targets, background, inputs.shape[-1])
        share, column = (column >= 0).to(log_p.dtype), column.clamp(min=0)
        if scores is not None:
            share = torch.where(targets >= 0, scores.detach().to(log_p.dtype), share)
        own = log_p.gather(-1, column.unsqueeze(-1)).squeeze(-1)
        loss = share * _focal(own, gamma, alpha[column] if isinstance(alpha, Tensor) else alpha)
    if label_smoothing:
        loss = (1 - label_smoothing) * loss - label_smoothing * share * log_p.mean(-1)
    return finish(loss, targets, weight, class_weight, reduction, normalizer)


def _focal(log_p: Tensor, gamma: float, alpha: Tensor | float | None) -> Tensor:
    """`-alpha (1 - p)**gamma log p`, elementwise."""
    loss = -log_p
    if gamma:
        loss = loss * (-torch.expm1(log_p)).clamp(min=SMALLEST_BASE) ** gamma
    return loss if alpha is None else loss * alpha


def column_of(labels: Tensor, background: Background, columns: int) -> Tensor:
    """(…) column of each label, below 0 where there is none (ignored, or background without a column)."""
    if background == "first":
        return labels + 1
    return torch.where(labels == BACKGROUND, columns - 1, labels) if background == "last" else labels


class SigmoidCrossEntropyLoss(ClassificationLoss):
    """Module of `sigmoid_cross_entropy`."""

    function = staticmethod(sigmoid_cross_entropy)

    def __init__(
        self,
        label_smoothing: float = 0.0,
        from_logits: bool = True,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction, label_smoothing=label_smoothing, from_logits=from_logits)


class SoftmaxCrossEntropyLoss(ClassificationLoss):
    """Module of `softmax_cross_entropy`."""

    function = staticmethod(softmax_cross_entropy)

    def __init__(
        self,
        label_smoothing: float = 0.0,
        background: Background = "last",
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction, label_smoothing=label_smoothing, background=background)
