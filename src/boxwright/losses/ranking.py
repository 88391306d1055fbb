"""Average precision as a loss."""

from typing import ClassVar, get_args

import torch
from torch import Tensor

from boxwright.distributed import all_reduce_sum, mean_over_processes
from boxwright.kernels.error_driven import Ranking, Scope, Update, error_driven
from boxwright.losses.module import LossModule
from boxwright.losses.reduction import IGNORED, check_choice, check_labels

__all__ = ["APLoss", "RankingLoss", "ap_loss", "average_precision", "check_ranked", "check_rule"]

# background above a positive that is none
SMALLEST = 1e-30


def ap_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    delta: float = 1.0,
    scope: Scope = "batch",
) -> Tensor:
    """One minus the interpolated average precision of the scores, trained by the error-driven update.

    K. Chen et al., "Towards Accurate One-Stage Object Detection with AP-Loss", 2019, arXiv:1904.06373. Exact, at the
    price of a pointwise loss: see docs/ranking.md. In data-parallel training the positives of all processes are ranked
    together against the background of all; averaged over the processes, loss and gradient are those of one process.

    Args:
        inputs: (…, C) logits.
        targets: (…) integer labels, -1 background, -2 ignored; or (…, C): positive, 0 background, negative ignored.
        delta: half the width of the ramp that stands for the step; 0 counts ties as misranked.
        scope: what is ranked together: the whole "batch" over all classes (published), each "class" or each "image";
            the loss is the mean over the groups that have a positive.

    Returns:
        Scalar, already normalised; 0 without positives.

    Raises:
        TypeError, ValueError: dtypes, shapes or hyper-parameters that do not fit.

    >>> ap_loss(torch.tensor([[3.0, -2.0], [0.5, 1.0]]), torch.tensor([0, -1]))
    tensor(0.)
    """
    check_ranked(inputs, targets, delta, scope)
    loss, _ = _ap(inputs, targets, None, delta, scope)
    return loss


class RankingLoss(LossModule):
    """Base of the ranking losses that are called like every classification loss; they normalise themselves.

    Args:
        delta: as in the subclass's function.
        scope: as in the subclass's function.

    Raises:
        ValueError: a negative delta, or an unknown scope.
    """

    takes_quality: ClassVar[bool] = False

    def __init__(self, delta: float, scope: Scope) -> None:
        super().__init__()
        check_rule(delta, scope)
        self.delta, self.scope = delta, scope

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        scores: Tensor | None = None,
        weight: None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """Compute the loss; `scores` matter to losses that sort by quality, `normalizer` does not matter.

        Raises:
            ValueError: a `weight` is given, which a ranking cannot heed.
        """
        if weight is not None:
            raise ValueError("a ranking loss takes no weight; give what should not count the label -2")
        return self.rank(inputs, targets, scores)

    def rank(self, inputs: Tensor, targets: Tensor, scores: Tensor | None) -> Tensor:
        """Compute the loss."""
        raise NotImplementedError


class APLoss(RankingLoss):
    """Module of `ap_loss`, called like every classification loss.

    Args:
        delta: as in `ap_loss`.
        scope: as in `ap_loss`.
    """

    def __init__(self, delta: float = 1.0, scope: Scope = "batch") -> None:
        super().__init__(delta, scope)

    def rank(self, inputs: Tensor, targets: Tensor, scores: Tensor | None) -> Tensor:
        """Compute the loss."""
        return ap_loss(inputs, targets, delta=self.delta, scope=self.scope)


@torch.no_grad()
def average_precision(inputs: Tensor, targets: Tensor, *, scope: Scope = "batch") -> Tensor:
    """Interpolated average precision of a ranking with hard steps, as a metric; arguments as in `ap_loss`.

    Every process gets that of the global batch; 0 without positives.

    >>> average_precision(torch.tensor([[3.0], [0.5], [1.0]]), torch.tensor([0, 0, -1]))
    tensor(0.8333)
    """
    error = mean_over_processes(ap_loss(inputs, targets, delta=0.0, scope=scope))
    positives = all_reduce_sum((targets >= 0 if targets.ndim < inputs.ndim else targets > 0).sum())
    return torch.where(positives > 0, 1 - error, 0)


@error_driven(terms=1)
def _ap(ranking: Ranking) -> Update:
    # the pair of a positive with itself counts as a whole one
    rank = ranking.above + (0.5 if ranking.ramps.delta > 0 else 0) + ranking.background
    # one minus the precision: what remains of it where that is nearly 1 keeps its digits
    error = _running_minimum(ranking.background / rank, ranking)
    push = (ranking.share * error).unsqueeze(0)
    return Update(push.sum(1), -push, push / ranking.background.clamp(min=SMALLEST))


def _running_minimum(error: Tensor, ranking: Ranking) -> Tensor:
    """Smallest error at any score up to each positive's own, within its group: the best, interpolated precision."""
    order = ranking.scores.argsort()
    if ranking.group is None:
        best = error.index_select(0, order).cummin(0).values
    else:
        order = order[ranking.group[order].argsort(stable=True)]
        # groups are lowered below each other, so that none inherits the minimum of another
        lift = 2 * ranking.group[order]
        best = (error[order] - lift).cummin(0).values + lift
    return torch.empty_like(error).index_copy_(0, order, best)


def check_ranked(inputs: Tensor, targets: Tensor, delta: float, scope: Scope) -> None:
    """Raise unless targets are labels (…) or {positive, 0, negative} (…, C) of inputs (…, C).

    Raises:
        TypeError: inputs are not floating point, or labels are not integers.
        ValueError: shapes that do not fit, labels of classes that there are not (looked at on the CPU only), a negative
            delta, or an unknown scope.
    """
    if not inputs.is_floating_point() or inputs.ndim == 0:
        raise TypeError(f"inputs must be floating point (…, C), got {inputs.dtype} of shape {tuple(inputs.shape)}")
    if targets.shape not in (inputs.shape, inputs.shape[:-1]):
        raise ValueError(
            f"targets must be labels of shape {tuple(inputs.shape[:-1])} or values of shape {tuple(inputs.shape)}, "
            f"got {targets.dtype} of shape {tuple(targets.shape)}"
        )
    if targets.shape != inputs.shape and (targets.is_floating_point() or targets.dtype == torch.bool):
        raise TypeError(f"labels {tuple(targets.shape)} must be integers, got {targets.dtype}")
    if targets.shape != inputs.shape:
        check_labels(targets, IGNORED, inputs.shape[-1], "-2 (ignored), -1 (background) or ")
    check_rule(delta, scope)
    if scope != "batch" and inputs.ndim < 2:
        raise ValueError(f"scope={scope!r} needs inputs (…, C) with images, got shape {tuple(inputs.shape)}")


def check_rule(delta: float, scope: str) -> None:
    """Raise ValueError for a negative delta, or an unknown scope."""
    if not delta >= 0:
        raise ValueError(f"delta must be at least 0, got {delta}")
    check_choice("scope", scope, get_args(Scope))
