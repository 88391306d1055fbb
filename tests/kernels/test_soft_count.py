"""Soft counts and sums of ramps against the definition, in separate groups, with ties and outliers."""

import pytest
import torch
from torch import Tensor

from boxwright.kernels.soft_count import Ramps


def steps(values: Tensor, thresholds: Tensor, delta: float) -> Tensor:
    """(N, P) soft steps by their definition."""
    difference = values[:, None] - thresholds
    return (difference / (2 * delta) + 0.5).clamp(0, 1) if delta else (difference >= 0).to(values.dtype)


def tables(ramps: Ramps, values: Tensor, group: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bins of the values, and number and sum of offsets per bin."""
    index = ramps.bins.locate(values, (group * ramps.bins.cells).int()).long()
    offset, size = values - ramps.bins.left[index], len(ramps.bins.edges)
    return index, torch.bincount(index, minlength=size).double(), torch.bincount(index, offset, minlength=size)


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
    index, number, offsets = tables(ramps, values, value_group)
    torch.testing.assert_close(ramps.counts(number, offsets), expected.sum(0), rtol=1e-9, atol=1e-9)
    weights = torch.rand(60, dtype=torch.float64)
    level, slope = ramps.sums(weights)
    actual = level[index] + slope[index] * (values - ramps.bins.left[index])
    torch.testing.assert_close(actual, expected @ weights, rtol=1e-9, atol=1e-9)


def test_a_group_without_thresholds_and_no_threshold_at_all() -> None:
    ramps = Ramps.around(torch.zeros(1), torch.tensor([1]), 3, 1.0)
    values, group = torch.tensor([0.5, 0.5, 0.5]), torch.tensor([0, 1, 2])
    index, number, offsets = tables(ramps, values, group)
    assert ramps.counts(number, offsets).tolist() == [0.75]
    assert ramps.sums(torch.ones(1))[0][index][[0, 2]].tolist() == [0, 0]
    nothing = Ramps.around(torch.zeros(0), torch.zeros(0, dtype=torch.int64), 1, 1.0)
    assert nothing.bins.locate(torch.randn(5), torch.zeros(5, dtype=torch.int32)).unique().numel() == 1


def test_what_is_no_number_lies_lowest() -> None:
    ramps = Ramps.around(torch.tensor([0.0, 1.0]), torch.zeros(2, dtype=torch.int64), 1, 0.5)
    index = ramps.bins.locate(torch.tensor([torch.nan, -1e38, 1e38]))
    assert index.tolist()[:2] == [0, 0]
    assert index[2] == ramps.top.max()
