"""FCOS's ranges of its levels, and which of several objects has a prior; the golden cases are in `test_atss`."""

import pytest
import torch
from torch import Tensor

from boxwright.assigners import FCOSAssigner
from boxwright.structures import Level, Priors, Targets


def _matches(assigner: FCOSAssigner, priors: Priors, *images: list[list[float]]) -> list[list[int]]:
    targets = Targets.from_list(
        [{"boxes": torch.tensor(boxes), "labels": torch.zeros(len(boxes), dtype=torch.int64)} for boxes in images]
    )
    return assigner(priors, targets).gt_index.tolist()


def _column(levels: int) -> Priors:
    """One prior per level, all around the origin."""
    strides = 8 * 2.0 ** torch.arange(levels)
    boxes = torch.stack([-strides, -strides, strides, strides], dim=1) / 2
    grids = tuple(Level(1, 1, 1, stride, 0.0) for stride in strides.tolist())
    return Priors(boxes, torch.zeros(levels, 2), strides, grids)


def _square(side: float) -> list[list[float]]:
    return [[-side, -side, side, side]]


def test_levels_share_the_sides_at_their_bounds_and_the_last_has_all_beyond():
    five = [_square(side) for side in (1.0, 64.0, 65.0, 128.0, 256.0, 512.0, 513.0)]
    assert [index.count(0) for index in _matches(FCOSAssigner(), _column(5), *five)] == [1, 2, 1, 2, 2, 2, 1]
    assert [index.index(0) for index in _matches(FCOSAssigner(), _column(5), *five)] == [0, 0, 1, 1, 2, 3, 4]
    three, large = _matches(FCOSAssigner(), _column(3), _square(100.0), _square(300.0))
    assert (three, large) == ([-1, 0, -1], [-1, -1, 0])  # fewer levels leave no object out
    assert _matches(FCOSAssigner((10.0,)), _column(3), _square(20.0)) == [[-1, 0, 0]]


def test_the_smallest_object_has_the_prior_and_pixels_may_be_inclusive():
    long, square = [-5.0, -0.5, 5.0, 0.5], [-1.65, -1.65, 1.65, 1.65]  # of 10.0 and 10.9, or 11 x 2 and 4.3 x 4.3
    for boxes in ([long, square], [square, long]):
        assert _matches(FCOSAssigner(()), _column(1), boxes) == [[boxes.index(long)]]
        assert _matches(FCOSAssigner((), plus_one=True), _column(1), boxes) == [[boxes.index(square)]]
    assert _matches(FCOSAssigner(()), _column(1), [long, long]) == [[0]]


def test_a_centre_lies_inside_by_more_than_the_margin():
    box = [-2.0, -9.0, 9.0, 9.0]
    assert _matches(FCOSAssigner(margin=1.9), _column(1), [box]) == [[0]]
    assert _matches(FCOSAssigner(margin=2.0), _column(1), [box]) == [[-1]]
    assert _matches(FCOSAssigner(), _column(1), [[-0.005, -9.0, 9.0, 9.0]], [[-0.015, -9.0, 9.0, 9.0]]) == [[-1], [0]]


def test_priors_need_levels():
    boxes: Tensor = torch.zeros(1, 4)
    with pytest.raises(ValueError, match="need `levels`, as grids have"):
        _matches(FCOSAssigner(), Priors(boxes, boxes[:, :2], torch.ones(1)), _square(3.0))
