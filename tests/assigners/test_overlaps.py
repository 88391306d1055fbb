"""The ranking by overlap and distance, which assignments show the top of only."""

import pytest
import torch

from boxwright.assigners.blocks import clean_boxes
from boxwright.assigners.overlaps import overlapping_priors
from boxwright.boxes import AnchorGenerator, box_iou


@pytest.mark.parametrize("k", [1, 5, 700])
def test_priors_that_overlap_alike_are_ranked_by_distance(k):
    """Beside a few that overlap an object are hundreds that do not, and come after them from near to far."""
    priors = AnchorGenerator.square((8.0,), scale=1, offset=0.5)([(20, 30)])
    low = torch.rand(2, 6, 2) * torch.tensor([200.0, 120.0])
    objects = torch.tensor([[True] * 6, [True, False, True, True, False, False]])
    boxes = clean_boxes(torch.cat([low, low + torch.rand(2, 6, 2) * 30], dim=-1), objects)
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
