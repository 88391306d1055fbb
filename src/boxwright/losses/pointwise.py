"""What the classification losses share: dense or sparse targets, weights, and the module that carries class weights."""

from collections.abc import Callable, Sequence
from typing import Any, ClassVar, TypedDict, Unpack, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.counts import counted
from boxwright.kernels import Modulator, dense_targets, modulated_cross_entropy, modulated_row_sums
from boxwright.losses.class_weights import class_weights
from boxwright.losses.module import LossModule
from boxwright.losses.reduction import (
    IGNORED,
    Reduction,
    check_choice,
    check_labels,
    check_same_shape,
    divisor,
    reduce,
    upcast,
    weighted,
)

__all__ = [
    "ClassWeight",
    "ClassificationLoss",
    "Common",
    "check_exponent",
    "check_targets",
    "finish",
    "modulated_loss",
    "row_weight_of",
]


ClassWeight = tuple[float, ...] | str | None


class Common(TypedDict):
    """The arguments that every classification function takes."""

    scores: Tensor | None
    weight: Tensor | None
    class_weight: Tensor | None
    reduction: Reduction
    normalizer: Tensor | float | None


class ClassificationLoss(LossModule):
    """Base of the classification modules: all are called alike, so that one can stand in for another.

    A subclass names its `function` and lists the hyper-parameters in `__init__`, or overrides `compute`.

    Args:
        class_weight: one weight per class, for the priors labelled with it (background has weight 1); or a rule,
            "balanced" or "effective_number(0.999)", which `count_classes` turns into weights.
        reduction: "none", "sum", "mean" or "image".

    Raises:
        ValueError: the function refuses a hyper-parameter or the reduction, or the rule cannot be read.
    """

    takes_quality: ClassVar[bool] = False
    """Whether the loss is made for a quality (an IoU, an alignment) as the score of the labelled class."""
    function: ClassVar[Callable[..., Tensor]]
    num_classes: int | None = None
    """How many classes the loss is made for, where its arguments say so."""
    class_weight: Tensor | None

    def __init__(self, class_weight: ClassWeight = None, reduction: Reduction = "mean", **hyper: Any) -> None:
        super().__init__()
        check_choice("reduction", reduction, get_args(Reduction))
        self.reduction = reduction
        self.hyper = hyper
        if hasattr(type(self), "function"):  # options that cannot be meant are refused here: by the loss of nothing
            alpha = hyper.get("alpha")
            nothing = torch.zeros(0, 1 if alpha is None else torch.as_tensor(alpha).numel())
            type(self).function(nothing, nothing, **hyper)
        self.class_weight_rule: str | None = None
        if isinstance(class_weight, str):
            class_weights(class_weight, [1])  # a rule that cannot be read is refused before the counts are known
            self.class_weight_rule, class_weight = class_weight, None
        weight = None if class_weight is None else torch.as_tensor(class_weight, dtype=torch.float32)
        if weight is not None:
            self.num_classes = len(weight)
        self.register_buffer("class_weight", weight, persistent=False)

    def count_classes(self, counts: Tensor | Sequence[int]) -> None:
        """Weigh the classes by how many objects of each (C,) the training data hold, where there is a rule for that.

        Raises:
            ValueError: the loss is made for another number of classes.
        """
        if self.num_classes not in (None, len(counts)):
            raise ValueError(f"is made for {counted(self.num_classes, 'class')}, but the data have {len(counts)}")
        if self.class_weight_rule is not None:
            self.class_weight = class_weights(self.class_weight_rule, counts).float()

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        scores: Tensor | None = None,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """Compute the loss.

        Args:
            inputs: (…, C) logits (probabilities where the loss says so).
            targets: (…) int64 labels, -1 background, -2 ignored; or (…, C) floating point targets in 0..1.
            scores: (…) soft target of the labelled class, 1 where None; only with labels.
            weight: (…) per prior or (…, C) per element.
            normalizer: the divisor of "mean"; where None, what the function counts (what is not ignored).
        """
        if self.class_weight_rule is not None and self.class_weight is None:
            raise ValueError(f"class_weight={self.class_weight_rule!r} needs counts: call count_classes(counts) first")
        return self.compute(
            inputs,
            targets,
            scores=scores,
            weight=weight,
            class_weight=self.class_weight,
            reduction=self.reduction,
            normalizer=normalizer,
        )

    def compute(self, inputs: Tensor, targets: Tensor, **common: Unpack[Common]) -> Tensor:
        """Call the loss function with the hyper-parameters of the module."""
        return type(self).function(inputs, targets, **common, **self.hyper)

    @property
    def from_logits(self) -> bool:
        """Whether inputs are logits, not probabilities."""
        return bool(self.hyper.get("from_logits", True))

    def extra_repr(self) -> str:
        """List the options, and the rule for class weights."""
        rule = self.class_weight_rule
        return super().extra_repr() + ("" if rule is None else f", class_weight={rule!r}")


def modulated_loss(
    inputs: Tensor,
    targets: Tensor,
    modulator: Modulator,
    scores: Tensor | None,
    weight: Tensor | None,
    class_weight: Tensor | None,
    reduction: Reduction,
    normalizer: Tensor | float | None,
    from_logits: bool = True,
) -> Tensor:
    """Modulated binary cross-entropy of (…, C) inputs under the common conventions of targets, weights and reduction.

    Sums over classes are taken without building an elementwise loss or a (…, C) target wherever no argument needs one.
    """
    check_exponent(modulator.gamma)
    check_targets(inputs, targets, scores, class_weight)
    terms = inputs.shape[-1]
    plain = reduction == "none" or not from_logits or inputs.ndim == 1
    learned = any(part is not None and part.requires_grad for part in (weight, class_weight))
    if plain or learned or (weight is not None and weight.ndim == inputs.ndim):
        x = upcast(inputs)
        t, positive = dense_targets(x, targets, scores)
        loss = modulated_cross_entropy(x, t, positive, modulator, from_logits)
        return finish(loss, targets, weight, class_weight, reduction, normalizer, terms)
    one = inputs.new_ones((), dtype=torch.promote_types(inputs.dtype, torch.float32))
    factor = weighted(weighted(one.expand(inputs.shape[:-1]), row_weight_of(targets, class_weight)), weight)
    if reduction != "mean":
        return reduce(modulated_row_sums(inputs, targets, scores, modulator, factor), reduction, normalizer)
    # divided before they are added up, so that the backward pass has nothing left to multiply
    factor = factor / divisor(_counted(targets, terms) if normalizer is None else normalizer, one)
    return modulated_row_sums(inputs, targets, scores, modulator, factor).sum()


def finish(
    loss: Tensor,
    targets: Tensor,
    weight: Tensor | None,
    class_weight: Tensor | None,
    reduction: Reduction,
    normalizer: Tensor | float | None,
    terms: int = 1,
) -> Tensor:
    """Weigh and reduce a loss per prior (…) or per element (…, C); "mean" counts `terms` per prior not ignored."""
    loss = weighted(weighted(loss, row_weight_of(targets, class_weight)), weight)
    return reduce(loss, reduction, normalizer, _counted(targets, terms))


def _counted(targets: Tensor, terms: int) -> Tensor | int:
    """How many terms the priors that are not ignored have."""
    if targets.is_floating_point():
        return targets.shape[:-1].numel() * terms
    return (targets != IGNORED).sum() * terms


def check_exponent(gamma: float) -> None:
    """Raise ValueError for an exponent that would turn up what is easy, without bound."""
    if gamma < 0:
        raise ValueError(f"the exponent of the modulating factor must not be negative, got {gamma}")


def check_targets(
    inputs: Tensor,
    targets: Tensor,
    scores: Tensor | None = None,
    class_weight: Tensor | None = None,
    background_columns: int = 0,
) -> None:
    """Raise unless `targets` are labels (…) or dense targets (…, C) of inputs (…, C), and `scores` belong to labels.

    The values of labels are looked at on the CPU only: elsewhere that would wait for the device.

    Args:
        inputs: (…, C).
        targets: (…) or (…, C).
        scores: (…), only with labels.
        class_weight: (C - background_columns,), only with labels.
        background_columns: how many of the C columns are no class.

    Raises:
        TypeError: inputs are not floating point, or dense targets are integers.
        ValueError: shapes that do not fit, labels of classes that there are not, or scores beside dense targets.
    """
    if not inputs.is_floating_point() or inputs.ndim == 0:
        raise TypeError(f"inputs must be floating point (…, C), got {inputs.dtype} of shape {tuple(inputs.shape)}")
    if targets.is_floating_point():
        check_same_shape(inputs, targets)
        if scores is not None:
            raise ValueError("scores go with labels (…); dense targets (…, C) hold the scores themselves")
        return
    indices = targets.dtype in (torch.int64, torch.int32)
    if not indices or targets.shape != inputs.shape[:-1]:
        raise (ValueError if indices and targets.shape != inputs.shape else TypeError)(
            f"targets must be int64 labels of shape {tuple(inputs.shape[:-1])} or floating point of shape "
            f"{tuple(inputs.shape)}, got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    if scores is not None and scores.shape != targets.shape:
        raise ValueError(f"scores must have the labels' shape {tuple(targets.shape)}, got {tuple(scores.shape)}")
    classes = inputs.shape[-1] - background_columns
    if class_weight is not None and class_weight.shape != (classes,):
        raise ValueError(f"class_weight must hold one number per class ({classes},), got {tuple(class_weight.shape)}")
    check_labels(targets, IGNORED, classes, "-2 (ignored), -1 (background) or ")


def row_weight_of(targets: Tensor, class_weight: Tensor | None) -> Tensor | None:
    """(…) weight of each label: 0 where ignored, 1 for background, its class's weight elsewhere; None if dense.

    Raises:
        ValueError: class weights beside dense targets.
    """
    if targets.is_floating_point():
        if class_weight is not None:
            raise ValueError("class_weight needs labels: a row of dense targets has no single class")
        return None
    if class_weight is None:
        return targets != IGNORED
    # labels below 0 count from the end of the table: what is ignored before background
    return F.pad(F.pad(class_weight, (0, 1)), (0, 1), value=1)[targets]
