"""Overlaps on grids, and the ranking by overlap and distance, which assignments show the top of only."""

import pytest
import torch

from boxwright.assigners.blocks import clean_boxes
from boxwright.assigners.overlaps import best_objects, overlapping_priors
from boxwright.boxes import AnchorGenerator, box_iou


@pytest.mark.parametrize("offset", [0.0, 1.0])
@pytest.mark.parametrize("hidden", [False, True])
def test_a_grid_of_several_anchors_per_cell_overlaps_as_any_boxes(offset, hidden):
    shapes = ((20.0, 10.0), (9.0, 25.0), (14.0, 14.0))
    priors = AnchorGenerator((8.0, 16.0), (shapes, shapes[:2]), offset=0.5)([(5, 7), (3, 4)])
    low = torch.rand(2, 6, 2) * 40
    boxes = clean_boxes(torch.cat([low, low + torch.rand(2, 6, 2) * 30], dim=-1))
    hide = torch.rand(2, len(priors)) < 0.7 if hidden else None
    options = {"hidden": hide, "claim_from": 0.3, "offset": offset}
    on_grid = best_objects(boxes, priors.boxes, levels=priors.levels, **options)
    for found, expected in zip(on_grid, best_objects(boxes, priors.boxes, **options), strict=True):
        torch.testing.assert_close(found, expected)
    best = box_iou(boxes, priors.boxes, offset=offset).amax(1)
    torch.testing.assert_close(on_grid[0], best if hide is None else best.masked_fill(hide, 0))


@pytest.mark.parametrize("k", [1, 5, 700])
def test_priors_that_overlap_alike_are_ranked_by_distance(k):
    """Beside a few that overlap an object are hundreds that do not, and come after them from near to far."""
    priors = AnchorGenerator.square((8.0,), scale=0.5, offset=0.5)([(20, 30)])
    low = torch.rand(2, 6, 2) * torch.tensor([200.0, 120.0])
    objects = torch.tensor([[True] * 6, [True, False, True, True, False, False]])
    size = torch.rand(2, 6, 2) * torch.tensor([30.0, 3, 3, 30, 3, 30]).unsqueeze(1)
    boxes = clean_boxes(torch.cat([low, low + size], dim=-1), objects)
    found = overlapping_priors(boxes, priors.boxes, priors.centers, objects, k)
    assert found.shape == (2, 6, min(k, 600))
    for image in range(2):
        own = boxes[image, objects[image]]
        apart = (priors.centers - (own[:, None, :2] + own[:, None, 2:]) / 2).norm(dim=-1)
        rank = box_iou(own, priors.boxes) - apart / apart.max() / 1000
        chosen = found[image, objects[image]]
        expected = rank.topk(chosen.shape[1]).values
        torch.testing.assert_close(rank.gather(1, chosen), expected, atol=1e-6, rtol=0)
        assert all(len(set(row)) == len(row) for row in chosen.tolist())
