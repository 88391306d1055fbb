"""Positives that lie above better ones: what is wrong with their order, and who takes the blame."""

import torch
from torch import Tensor

from boxwright.kernels.error_driven import Ranking

__all__ = ["sorting_errors"]

# pairs of positives that are compared at once
TILE = 2**16
SMALLEST = 1e-10


def sorting_errors(ranking: Ranking, lack: Tensor) -> tuple[Tensor, Tensor]:
    """Sorting error of each positive, and what those that it wrongly lies above charge it; (P,) float64 each.

    Compares all pairs, in tiles: P is thousands, not millions.

    Args:
        ranking: the positives.
        lack: (P,) sum of what the positives above each lack to quality 1.
    """
    # in float64 throughout: the error is a small difference of two means
    scores, quality, group, share = ranking.ramps.thresholds, ranking.quality, ranking.group, ranking.share
    delta = ranking.ramps.delta
    worth = torch.stack([torch.ones_like(quality), 1 - quality], 1)
    errors, pull = [share[:0]], torch.zeros_like(share)
    rows = max(1, TILE // max(len(scores), 1))
    for start in range(0, len(scores), rows):
        own = slice(start, start + rows)
        above = scores - scores[own, None]  # (r, P)
        above = above.mul_(0.5 / delta).add_(0.5).clamp_(0, 1) if delta > 0 else (above >= 0).double()
        worse = quality < quality[own, None]
        if group is not None:
            worse &= group == group[own, None]
        above.mul_(worse)
        misplaced, misplaced_lack = (above @ worth).unbind(1)
        error = _sorting_error(ranking.above[own], lack[own], misplaced, misplaced_lack)
        errors.append(error)
        pull += (share[own] * error / misplaced.clamp(min=SMALLEST)) @ above
    return torch.cat(errors), pull


def _sorting_error(above: Tensor, lack: Tensor, misplaced: Tensor, misplaced_lack: Tensor) -> Tensor:
    """Mean lack of what lies above a positive, beyond that of the better ones among it; (…) like each argument.

    Args:
        above: soft count of the positives above each.
        lack: sum of what these lack to quality 1.
        misplaced: soft count of the worse ones among them.
        misplaced_lack: sum of what those lack.
    """
    # the positive itself is one of the better ones
    error = lack / above - (lack - misplaced_lack) / (above - misplaced)
    return torch.where(misplaced > SMALLEST, error, 0)
