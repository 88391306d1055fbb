"""Focal loss, the sigmoid and the softmax form."""

from collections.abc import Sequence
from typing import Any, Unpack

import torch
from torch import Tensor

from boxwright.kernels import FocalModulator
from boxwright.losses.cross_entropy import Background, softmax_loss
from boxwright.losses.pointwise import ClassificationLoss, ClassWeight, Common, modulated_loss
from boxwright.losses.reduction import Reduction

__all__ = ["SigmoidFocalLoss", "SoftmaxFocalLoss", "sigmoid_focal_loss", "softmax_focal_loss"]


def sigmoid_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    alpha: float | Sequence[float] | Tensor | None = 0.25,
    gamma: float = 2.0,
    from_logits: bool = True,
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Cross-entropy that turns down what is already right (Lin et al. 2017, arXiv:1708.02002).

    `(alpha t + (1 - alpha)(1 - t)) * ((1 - p) t + p (1 - t))**gamma * BCE(p, t)` per class, p = sigmoid(input).

    Args:
        inputs: (…, C) logits, or probabilities where `from_logits` is False.
        targets: (…) int64 labels, -1 background, -2 ignored; or (…, C) floating point targets in 0..1.
        alpha: weight of the positive class, a number or one per class; None for no weighting.
        gamma: how strongly easy entries are turned down, at least 0.
        from_logits: whether `inputs` are logits.
        scores: (…) soft target of the labelled class, 1 where None.
        weight: (…) per prior or (…, C) per element.
        class_weight: (C,) weight of the priors labelled with a class.
        reduction: "none" gives (…, C); "sum", "mean" or "image".
        normalizer: divisor of "mean", by default the number of elements that are not ignored.

    Raises:
        TypeError, ValueError: dtypes or shapes that do not fit, with the offending shape, or a negative `alpha`.

    >>> logits, labels = torch.tensor([[2.0, -1.0], [0.0, 0.0]]), torch.tensor([0, -1])
    >>> sigmoid_focal_loss(logits, labels, reduction="sum")
    tensor(0.2774)
    """
    modulator = FocalModulator(gamma, per_class(alpha, inputs))
    return modulated_loss(inputs, targets, modulator, scores, weight, class_weight, reduction, normalizer, from_logits)


def softmax_focal_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    alpha: float | Sequence[float] | Tensor | None = None,
    gamma: float = 2.0,
    background: Background = "last",
    scores: Tensor | None = None,
    weight: Tensor | None = None,
    class_weight: Tensor | None = None,
    reduction: Reduction = "none",
    normalizer: Tensor | float | None = None,
) -> Tensor:
    """Focal loss of one distribution over classes: `-alpha t (1 - p)**gamma log p` of the target, p = softmax(input).

    Lin et al. 2017, arXiv:1708.02002. Arguments as in `softmax_cross_entropy`; `alpha` is a number for all columns or
    one number per column, `gamma` at least 0.

    >>> softmax_focal_loss(torch.zeros(2, 3), torch.tensor([0, -2]))
    tensor([0.4883, 0.0000])
    """
    alpha = per_class(alpha, inputs)
    return softmax_loss(
        inputs, targets, scores, weight, class_weight, reduction, normalizer, background, gamma=gamma, alpha=alpha
    )


class _BalancedLoss(ClassificationLoss):
    """Base of the modules with an `alpha`: one per class is kept on the device of the inputs."""

    alpha: Tensor | None

    def __init__(self, alpha: float | tuple[float, ...] | None, *args: Any, **hyper: Any) -> None:
        super().__init__(*args, alpha=alpha, **hyper)
        single = alpha is None or isinstance(alpha, float | int)
        self.register_buffer("alpha", None if single else torch.as_tensor(alpha, dtype=torch.float32), persistent=False)

    def compute(self, inputs: Tensor, targets: Tensor, **common: Unpack[Common]) -> Tensor:
        """Call the loss function with the hyper-parameters of the module."""
        alpha = self.hyper["alpha"] if self.alpha is None else self.alpha
        return type(self).function(inputs, targets, **common, **self.hyper | {"alpha": alpha})


class SigmoidFocalLoss(_BalancedLoss):
    """Module of `sigmoid_focal_loss`."""

    function = staticmethod(sigmoid_focal_loss)

    def __init__(
        self,
        alpha: float | tuple[float, ...] | None = 0.25,
        gamma: float = 2.0,
        from_logits: bool = True,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(alpha, class_weight, reduction, gamma=gamma, from_logits=from_logits)


class SoftmaxFocalLoss(_BalancedLoss):
    """Module of `softmax_focal_loss`."""

    function = staticmethod(softmax_focal_loss)

    def __init__(
        self,
        alpha: float | tuple[float, ...] | None = None,
        gamma: float = 2.0,
        background: Background = "last",
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(alpha, class_weight, reduction, gamma=gamma, background=background)


def per_class(alpha: float | Sequence[float] | Tensor | None, inputs: Tensor) -> Tensor | float | None:
    """Turn a sequence into a tensor of one value per column of `inputs`; a number or None stays."""
    if alpha is None:
        return None
    if isinstance(alpha, float | int):
        if alpha < 0:
            raise ValueError(f"alpha must not be negative, got {alpha}; None leaves the weighting out")
        return alpha
    values = torch.as_tensor(alpha, dtype=torch.promote_types(inputs.dtype, torch.float32), device=inputs.device)
    if values.shape != inputs.shape[-1:]:
        raise ValueError(f"alpha must hold one value per class ({inputs.shape[-1]}), got {tuple(values.shape)}")
    return values
