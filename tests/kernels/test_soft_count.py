"""Soft counts and sums of ramps against the definition, and bins by the grid, in groups, with ties and outliers."""

import pytest
import torch
from torch import Tensor

from boxwright.kernels.grid import Grid
from boxwright.kernels.soft_count import Ramps


def steps(values: Tensor, thresholds: Tensor, delta: float) -> Tensor:
    """(N, P) soft steps by their definition."""
    difference = values[:, None] - thresholds
    return (difference / (2 * delta) + 0.5).clamp(0, 1) if delta else (difference >= 0).to(values.dtype)


def bins(ramps: Ramps, values: Tensor, group: Tensor) -> Tensor:
    """(N,) bins of the values by the grid."""
    grid, base = Grid.over(ramps, len(values)), group.int()[None]
    index, step, place = (torch.empty(1, len(values), dtype=dtype) for dtype in (torch.int32, torch.int32, torch.int64))
    grid.locate(values[None], base * grid.cells, index, torch.empty_like(values)[None], place, step)
    return index[0].long()


def table(ramps: Ramps, values: Tensor, index: Tensor) -> Tensor:
    """(2, 1, S) number and sum of the values per bin."""
    weights = (torch.ones_like(values), values)
    rows = [torch.bincount(index, weight.double(), minlength=len(ramps.edges)) for weight in weights]
    rows[1][ramps.outer.view(-1)] = 0
    return torch.stack(rows)[:, None]


@pytest.mark.parametrize("delta", [1.0, 0.25, 0.0])
@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("scene", ["ordinary", "ties", "outliers", "crowded"])
def test_counts_and_sums_follow_the_definition(delta: float, groups: int, scene: str) -> None:
    values, thresholds = torch.randn(2, 400, dtype=torch.float64)
    thresholds = thresholds[:60]
    if scene == "ties":
        values, thresholds = values.round(), (thresholds * 2).round() / 2
    elif scene == "outliers":
        values[:3], thresholds[:2] = torch.tensor([1e4, -1e4, 0.0]), torch.tensor([1e4, -1e4])
    elif scene == "crowded":
        thresholds = thresholds * 1e-7
    value_group, group = torch.randint(0, groups, (400,)), torch.randint(0, groups, (60,))
    ramps = Ramps.around(thresholds, group, groups, delta)
    same = value_group[:, None] == group
    expected = steps(values, thresholds, delta) * same
    index = bins(ramps, values, value_group)
    torch.testing.assert_close(ramps.counts(table(ramps, values, index))[0], expected.sum(0), rtol=1e-9, atol=1e-9)
    weights = torch.rand(60, dtype=torch.float64)
    level, slope = ramps.sums(weights)
    torch.testing.assert_close(level[index] + slope[index] * values, expected @ weights, rtol=1e-9, atol=1e-9)
    among = steps(thresholds, thresholds, delta) * (group[:, None] == group)
    torch.testing.assert_close(ramps.counts(ramps.tally(weights[None]))[0], weights @ among, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(ramps.sums_at_thresholds(weights), among @ weights, rtol=1e-9, atol=1e-9)


def test_a_group_without_thresholds_and_no_threshold_at_all() -> None:
    ramps = Ramps.around(torch.zeros(1), torch.tensor([1]), 3, 1.0)
    values, group = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0, 1, 2])
    index = bins(ramps, values, group)
    assert ramps.counts(table(ramps, values, index)).tolist() == [[0.75]]
    assert ramps.sums(torch.ones(1).double())[:, index[[0, 2]]].tolist() == [[0, 0], [0, 0]]
    nothing = Ramps.around(torch.zeros(0), None, 1, 1.0)
    assert bins(nothing, torch.randn(5), torch.zeros(5, dtype=torch.int64)).tolist() == [0] * 5


def test_what_is_no_number_lies_lowest_and_infinity_highest() -> None:
    ramps = Ramps.around(torch.tensor([0.0, 1.0]), torch.tensor([0, 0]), 2, 0.5)
    index = bins(ramps, torch.tensor([torch.nan, -torch.inf, -1e38, 1e38, torch.inf]), torch.zeros(5).long())
    assert index.tolist() == [0, 0, 0, 4, 4]
    assert ramps.outer[:, 0].tolist() == [0, 4]


def test_a_small_grid_is_no_work_for_a_second_thread() -> None:
    ramps = Ramps.around(torch.randn(50), None, 1, 1.0)
    assert Grid.over(ramps, 100_000).first.numel() <= 2**15  # torch shares out what is more
