"""Rank & Sort: positives above the background, and sorted among themselves by their quality."""

import torch
from torch import Tensor, nn

from boxwright.kernels.error_driven import Ranking, Scope, Update, error_driven
from boxwright.losses.ranking import check_no_weight, check_ranked

__all__ = ["RankSortLoss", "rank_sort_loss"]

# pairs of positives that are compared at once
TILE = 2**17
SMALLEST = 1e-10


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
    (tensor(0.), tensor(0.0833))
    """
    check_ranked(inputs, targets, delta, scope)
    if scores is not None and (scores.shape != targets.shape or targets.shape == inputs.shape):
        raise ValueError(
            f"scores {tuple(scores.shape)} go with labels of the same shape, got targets {tuple(targets.shape)}"
        )
    losses, _ = _rank_sort(inputs, targets, targets if targets.shape == inputs.shape else scores, delta, scope)
    return losses[0], losses[1]


class RankSortLoss(nn.Module):
    """Sum of the two losses of `rank_sort_loss`, called like every classification loss; it normalises itself.

    Args:
        delta: as in `rank_sort_loss`.
        scope: as in `rank_sort_loss`.
    """

    takes_quality = True

    def __init__(self, delta: float = 0.5, scope: Scope = "batch") -> None:
        super().__init__()
        self.delta, self.scope = delta, scope

    def forward(
        self,
        inputs: Tensor,
        targets: Tensor,
        *,
        scores: Tensor | None = None,
        weight: Tensor | None = None,
        normalizer: Tensor | float | None = None,
    ) -> Tensor:
        """Compute the loss; `scores` are the qualities to sort by, `normalizer` does not matter.

        Raises:
            ValueError: a `weight` is given, which a ranking cannot heed.
        """
        check_no_weight(weight)
        ranking, sorting = rank_sort_loss(inputs, targets, scores=scores, delta=self.delta, scope=self.scope)
        return ranking + sorting


@error_driven(terms=2)
def _rank_sort(ranking: Ranking) -> Update:
    ramps, share = ranking.ramps, ranking.share
    rank = ramps.counts(*ramps.tally(ranking.scores))
    lack = ramps.counts(*ramps.tally(ranking.scores, 1 - ranking.quality))
    false = ranking.background
    error = torch.where(false > SMALLEST, false / (rank + false), 0)
    sorting, pull = _sort(ranking, rank, lack)
    return Update(
        losses=torch.stack([(share * error).sum(), (share * sorting).sum()]),
        positives=torch.stack([-share * error, pull - share * sorting]),
        background=torch.stack([share * error / false.clamp(min=SMALLEST), torch.zeros_like(share)]),
    )


def _sort(ranking: Ranking, rank: Tensor, lack: Tensor) -> tuple[Tensor, Tensor]:
    """Sorting error of each positive, and what those that it wrongly lies above charge it; (P,) each.

    Args:
        ranking: the positives.
        rank: (P,) positives above each.
        lack: (P,) sum of what is missing to quality 1 in them.
    """
    scores, quality, group, share = ranking.scores, ranking.quality, ranking.group, ranking.share
    delta, missing = ranking.ramps.delta, (1 - quality).to(scores.dtype)
    errors, pull = [scores.new_empty(0, dtype=share.dtype)], torch.zeros_like(share)
    rows = max(1, TILE // max(len(scores), 1))
    for start in range(0, len(scores), rows):
        own = slice(start, start + rows)
        above = scores - scores[own, None]  # (r, P)
        above = above.mul_(0.5 / delta).add_(0.5).clamp_(0, 1) if delta > 0 else (above >= 0).to(scores.dtype)
        worse = (quality < quality[own, None]) & (group == group[own, None])
        above.mul_(worse)
        missorted, missorted_lack = (above @ torch.stack([torch.ones_like(missing), missing], 1)).double().unbind(1)
        better = (rank[own] - missorted).clamp(min=SMALLEST)
        error = lack[own] / rank[own] - (lack[own] - missorted_lack) / better
        error = torch.where(missorted > SMALLEST, error, 0)
        errors.append(error)
        charge = share[own] * error / missorted.clamp(min=SMALLEST)
        pull += (charge.to(scores.dtype) @ above).double()
    return torch.cat(errors), pull
