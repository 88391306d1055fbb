"""Rank & Sort: positives above the background, and sorted among themselves by their quality."""

from typing import ClassVar

import torch
from torch import Tensor

from boxwright.kernels.error_driven import Ranking, Scope, Update, error_driven
from boxwright.kernels.sorting import sorting_errors
from boxwright.losses.ranking import RankingLoss, check_ranked

__all__ = ["RankSortLoss", "rank_sort_loss"]


def rank_sort_loss(
    inputs: Tensor,
    targets: Tensor,
    *,
    scores: Tensor | None = None,
    delta: float = 0.5,
    scope: Scope = "batch",
) -> tuple[Tensor, Tensor]:
    """Ranking error of the positives against the background, and their sorting error by quality.

    K. Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", 2021, arXiv:2107.11669. Exact,
    and each of the two losses sends its own error-driven update to the logits.

    Args:
        inputs: (…, C) logits.
        targets: (…) integer labels, -1 background, -2 ignored; or (…, C) qualities above 0 of the positives, 0 for
            background, negative for ignored.
        scores: (…) quality of the labelled entries, an IoU with the object; 1 where None. Only with labels.
        delta: half the width of the ramp that stands for the step; 0 is the step itself.
        scope: what is ranked together, as in `ap_loss`.

    Returns:
        Ranking and sorting loss, two scalars, already normalised; 0 without positives.

    Raises:
        TypeError, ValueError: dtypes, shapes or hyper-parameters that do not fit.

    >>> ranking, sorting = rank_sort_loss(torch.tensor([3.0, 5.0, -2.0]), torch.tensor([0.9, 0.6, 0.0]))
    >>> ranking, sorting
    (tensor(0.), tensor(0.1000))
    """
    check_ranked(inputs, targets, delta, scope)
    if scores is not None and (scores.shape != targets.shape or targets.shape == inputs.shape):
        raise ValueError(
            f"scores {tuple(scores.shape)} go with labels of the same shape, got targets {tuple(targets.shape)}"
        )
    ranking, sorting, _ = _rank_sort(
        inputs, targets, targets if targets.shape == inputs.shape else scores, delta, scope
    )
    return ranking, sorting


class RankSortLoss(RankingLoss):
    """Sum of the two losses of `rank_sort_loss`, called like every classification loss; `scores` are what to sort by.

    Args:
        delta: as in `rank_sort_loss`.
        scope: as in `rank_sort_loss`.
    """

    takes_quality: ClassVar[bool] = True

    def __init__(self, delta: float = 0.5, scope: Scope = "batch") -> None:
        super().__init__(delta, scope)

    def rank(self, inputs: Tensor, targets: Tensor, scores: Tensor | None) -> Tensor:
        """Compute the loss."""
        ranking, sorting = rank_sort_loss(inputs, targets, scores=scores, delta=self.delta, scope=self.scope)
        return ranking + sorting


@error_driven(terms=2)
def _rank_sort(ranking: Ranking) -> Update:
    share, false, rank = ranking.share, ranking.background, ranking.above
    lack = rank - ranking.quality_above
    error = false / (rank + false)
    sorting, pull = sorting_errors(ranking, lack)
    return Update(
        losses=torch.stack([(share * error).sum(), (share * sorting).sum()]),
        positives=torch.stack([-share * error, pull - share * sorting]),
        background=torch.stack([share / (rank + false), torch.zeros_like(share)]),
    )
