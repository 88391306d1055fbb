"""Losses for data in which most classes are rare: seesaw, equalised v2, federated."""

from typing import Any, Unpack

import torch
import torch.nn.functional as F
from torch import Tensor

from boxwright.distributed import all_reduce_sum
from boxwright.kernels import dense_targets
from boxwright.losses.cross_entropy import Background, column_of
from boxwright.losses.pointwise import ClassificationLoss, ClassWeight, Common, check_targets, finish, row_weight_of
from boxwright.losses.reduction import Reduction, upcast, weighted

__all__ = ["EqualizedV2Loss", "FederatedLoss", "SeesawLoss"]


class SeesawLoss(ClassificationLoss):
    """Softmax cross-entropy that spares rare classes the pressure of frequent ones.

    Wang et al. 2021, arXiv:2008.10032. In the denominator for label i, class j counts `M C exp(x_j)`: mitigation
    `M = min(1, N_j / N_i)**p` by the objects seen so far, compensation `C = max(1, p_j / p_i)**q` where j is favoured
    wrongly. Both carry no gradient; pairs with background have M = C = 1.

    Args:
        num_classes: number of classes without background; `seen` (num_classes,) is a buffer, summed over processes.
        p: exponent of mitigation.
        q: exponent of compensation.
        background: the column of background, see `softmax_cross_entropy`; targets are labels.
        class_weight: see `ClassificationLoss`.
        reduction: "none" gives (…); "mean" counts priors that are not ignored.
    """

    seen: Tensor

    def __init__(
        self,
        num_classes: int,
        p: float = 0.8,
        q: float = 2.0,
        background: Background = "last",
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction)
        self.num_classes, self.p, self.q, self.background = num_classes, p, q, background
        self.register_buffer("seen", torch.zeros(num_classes, dtype=torch.int64))

    def compute(self, inputs: Tensor, targets: Tensor, **common: Unpack[Common]) -> Tensor:
        """Return the seesaw loss."""
        spare = int(self.background != "none")
        classes = len(self.seen)
        columns = classes + spare
        if inputs.shape[-1:] != (columns,):
            raise ValueError(f"inputs must have {columns} columns, got shape {tuple(inputs.shape)}")
        check_targets(inputs, targets, common["scores"], common["class_weight"], background_columns=spare)
        if targets.is_floating_point():
            raise ValueError(f"seesaw loss needs labels, got dense targets of shape {tuple(targets.shape)}")
        labelled = targets >= 0
        if self.training:
            seen = torch.zeros_like(self.seen)
            seen = seen.scatter_add(0, targets.clamp(min=0).flatten(), labelled.flatten().to(seen.dtype))
            self.seen.add_(all_reduce_sum(seen))
        x = upcast(inputs)
        column = column_of(targets, self.background, columns)
        index = column.clamp(min=0).unsqueeze(-1)
        frequency = self.seen.clamp(min=1).to(x.dtype).log()
        pad = (1, 0) if self.background == "first" else (0, columns - classes)
        mitigation = (F.pad(frequency, pad) - frequency[targets.clamp(min=0)].unsqueeze(-1)).clamp(max=0)
        compensation = (x - x.gather(-1, index)).detach().clamp(min=0)  # of logits as of their softmax's logarithms
        is_class = F.pad(torch.ones_like(frequency), pad)
        # S_ii = 1: both terms vanish for the label itself
        log_s = (self.p * mitigation + self.q * compensation) * is_class * labelled.unsqueeze(-1)
        loss = -(x + log_s).log_softmax(-1).gather(-1, index).squeeze(-1) * (column >= 0)
        if common["scores"] is not None:
            loss = loss * torch.where(labelled, common["scores"].detach().to(loss.dtype), 1)
        return finish(loss, targets, **_without_scores(common))


class EqualizedV2Loss(ClassificationLoss):
    """Sigmoid cross-entropy that balances the gradients each class has received (Tan et al. 2021, arXiv:2012.08548).

    With g the ratio of positive to negative gradient of a class so far and `f(g) = sigmoid(gamma (g - mu))`, negatives
    weigh f and positives `1 + alpha (1 - f)`. The sums are buffers (C,), over all processes, updated in training mode.

    Args:
        num_classes: C.
        gamma: how sharply f rises.
        mu: the ratio at which f is one half.
        alpha: what positives of a class without any positive gradient weigh more.
        class_weight: see `ClassificationLoss`.
        reduction: "none" gives (…, C); "mean" counts elements that are not ignored.
    """

    positive_gradient: Tensor
    negative_gradient: Tensor

    def __init__(
        self,
        num_classes: int,
        gamma: float = 12.0,
        mu: float = 0.8,
        alpha: float = 4.0,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction)
        self.num_classes, self.gamma, self.mu, self.alpha = num_classes, gamma, mu, alpha
        self.register_buffer("positive_gradient", torch.zeros(num_classes, dtype=torch.float64))
        self.register_buffer("negative_gradient", torch.zeros(num_classes, dtype=torch.float64))

    def compute(self, inputs: Tensor, targets: Tensor, **common: Unpack[Common]) -> Tensor:
        """Return the equalised loss."""
        if inputs.shape[-1:] != (len(self.positive_gradient),):
            raise ValueError(f"inputs must have {len(self.positive_gradient)} columns, got shape {tuple(inputs.shape)}")
        check_targets(inputs, targets, common["scores"], common["class_weight"])
        x = upcast(inputs)
        t, _ = dense_targets(x, targets, common["scores"])
        # before any gradient has been seen nothing is out of balance
        ratio = torch.where(self.negative_gradient > 0, self.positive_gradient / self.negative_gradient, torch.inf)
        f = torch.sigmoid(self.gamma * (ratio - self.mu)).to(x.dtype)
        factor = t * (1 + self.alpha * (1 - f)) + (1 - t) * f
        loss = F.binary_cross_entropy_with_logits(x, t, reduction="none") * factor
        if self.training:
            self._accumulate(x.detach(), t, factor, row_weight_of(targets, None), common["weight"])
        return finish(loss, targets, **_without_scores(common), terms=x.shape[-1])

    def _accumulate(
        self, x: Tensor, t: Tensor, factor: Tensor, row_weight: Tensor | None, weight: Tensor | None
    ) -> None:
        length = weighted(weighted((x.sigmoid() - t).abs() * factor, row_weight), weight)
        both = torch.stack([length * t, length * (1 - t)]).view(2, -1, x.shape[-1])
        both = both.sum(1, dtype=self.positive_gradient.dtype)
        positive, negative = all_reduce_sum(both)
        self.positive_gradient.add_(positive)
        self.negative_gradient.add_(negative)


class FederatedLoss(ClassificationLoss):
    """Sigmoid cross-entropy over the classes of the batch and a random draw of others (Zhou et al. 2021).

    arXiv:2103.07461, for federated annotation (Gupta, Dollár, Girshick 2019, arXiv:1908.03195), where an unlabelled
    object of a rare class is not surely absent.

    Args:
        classes: how many classes count per call (more where the batch holds more).
        frequency: how often each class occurs in the data; others are drawn by its square root (alike where None).
        class_weight: see `ClassificationLoss`.
        reduction: "none" gives (…, C); "mean" counts elements that are not ignored, drawn or not.

    Raises:
        ValueError: `classes` is below 1; when called, `frequency` is not one number per column of the inputs.
    """

    draw: Tensor | None

    def __init__(
        self,
        classes: int = 50,
        frequency: tuple[float, ...] | None = None,
        class_weight: ClassWeight = None,
        reduction: Reduction = "mean",
    ) -> None:
        super().__init__(class_weight, reduction)
        if classes < 1:
            raise ValueError(f"classes must be at least 1, got {classes}")
        self.classes = classes
        draw = None if frequency is None else torch.as_tensor(frequency).sqrt()
        if draw is not None:
            self.num_classes = len(draw)
        self.register_buffer("draw", draw, persistent=False)

    def compute(self, inputs: Tensor, targets: Tensor, **common: Unpack[Common]) -> Tensor:
        """Return the loss over the drawn classes."""
        check_targets(inputs, targets, common["scores"], common["class_weight"])
        x = upcast(inputs)
        t, positive = dense_targets(x, targets, common["scores"])
        occurs = positive.reshape(-1, x.shape[-1]).any(0)
        odds = torch.ones(x.shape[-1], device=x.device) if self.draw is None else self.draw
        if odds.shape != x.shape[-1:]:
            raise ValueError(f"frequency must hold one number per class ({x.shape[-1]},), got {tuple(odds.shape)}")
        # the largest of odds-weighted exponential races are a draw without replacement, of static shape
        race = torch.where(occurs, torch.inf, odds / torch.empty_like(odds).exponential_())
        drawn = race >= race.topk(min(self.classes, len(race))).values[-1]  # all that occur, however many
        loss = F.binary_cross_entropy_with_logits(x, t, reduction="none") * drawn
        return finish(loss, targets, **_without_scores(common), terms=x.shape[-1])


def _without_scores(common: Common) -> Any:
    return {name: value for name, value in common.items() if name != "scores"}
