# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The comparison of all pairs of positives as a Triton kernel, beside its reference `boxwright.kernels.sorting`.

Import this module only where Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from boxwright.kernels.error_driven import Ranking
from boxwright.kernels.sorting import SMALLEST, sorting_error

__all__ = ["sorting_errors"]

ROWS, COLUMNS = 16, 64


def sorting_errors(ranking: Ranking, lack: Tensor) -> tuple[Tensor, Tensor]:
    """As `boxwright.kernels.sorting.sorting_errors`; free places, whose share is 0, cost next to nothing."""
    counted = ranking.share > 0
    misplaced, misplaced_lack = (
        _weigh(ranking, torch.where(counted, worth, 0), above=True)
        for worth in (torch.ones_like(lack), 1 - ranking.quality)
    )
    error = torch.where(counted, sorting_error(ranking.above, lack, misplaced, misplaced_lack), 0)
    charge = ranking.share * error / misplaced.clamp(min=SMALLEST)
    return error, _weigh(ranking, charge, above=False)


def _weigh(ranking: Ranking, values: Tensor, above: bool) -> Tensor:
    """(P,) float64 sums of values (P,) of the worse ones above each positive, or of the better ones below it."""
    scores, group = ranking.ramps.thresholds, ranking.group
    size, delta = len(scores), ranking.ramps.delta
    counted = torch.arange(1, size + 1, device=scores.device).where(ranking.share > 0, 0)
    out = torch.zeros_like(values)
    _pairs[(triton.cdiv(size, ROWS),)](
        scores,
        ranking.quality,
        scores if group is None else group,
        values,
        torch.nn.functional.pad(counted, (1, 0)).amax(),
        out,
        size,
        APART=group is not None,
        ABOVE=above,
        STEEPNESS=0.5 / delta if delta > 0 else 0.0,
        ROWS=ROWS,
        COLUMNS=COLUMNS,
    )
    return out


@triton.jit
def _pairs(
    scores,
    qualities,
    groups,
    values,
    end,
    out,
    size,
    APART: tl.constexpr,
    ABOVE: tl.constexpr,
    STEEPNESS: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    here = row < size
    score = tl.load(scores + row, mask=here, other=0.0)[:, None]
    quality = tl.load(qualities + row, mask=here, other=0.0)[:, None]
    total = tl.zeros((ROWS,), tl.float64)
    # behind the last that counts there is nothing to compare
    limit = tl.load(end)
    if tl.program_id(0) * ROWS < limit:
        for start in range(0, limit, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            there = column < size
            worth = tl.load(values + column, mask=there, other=0.0)[None, :]
            difference = tl.load(scores + column, mask=there, other=0.0)[None, :] - score
            other = tl.load(qualities + column, mask=there, other=0.0)[None, :]
            if ABOVE:
                wrong = other < quality
            else:
                wrong = other > quality
                difference = -difference
            if APART:
                group = tl.load(groups + row, mask=here, other=-1)[:, None]
                wrong &= group == tl.load(groups + column, mask=there, other=-2)[None, :]
            if STEEPNESS > 0:
                step = tl.minimum(tl.maximum(difference * STEEPNESS + 0.5, 0.0), 1.0)
            else:
                step = tl.where(difference >= 0, 1.0, 0.0)
            total += tl.sum(tl.where(wrong, step.to(tl.float64) * worth, 0.0), axis=1)
    tl.store(out + row, total, mask=here)
