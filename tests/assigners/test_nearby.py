"""Groups of priors near an object: all that overlap it, and few besides."""

import torch

from boxwright.assigners.nearby import SHARE, Groups
from boxwright.boxes import AnchorGenerator, box_iou


def test_near_are_all_that_overlap_and_few_besides():
    """Two images, the objects of one in the first, or of both; the last group is not full."""
    boxes = AnchorGenerator.square((8.0, 16.0), scale=4, offset=0.5)([(40, 40), (19, 20)]).boxes
    predicted = torch.stack([boxes, boxes.flip(0)])
    assert len(boxes) % 32
    objects = torch.tensor([[[150.0, 150, 190, 170], [0, 0, 9, 9]], [[4, 250, 99, 290], [300, 300, 330, 330]]])
    groups = Groups.of(predicted)
    for images in (slice(0, 2), slice(1, 2)):
        pairs = groups.near(objects[images], images)
        overlap = box_iou(objects[images], predicted[images])
        missed = overlap.flatten(0, 1).index_put((pairs.owner.unsqueeze(1), pairs.priors()), torch.tensor(0.0))
        assert not missed.any()
        assert len(pairs.owner) < pairs.shape.numel() / SHARE
        found = box_iou(pairs.of_object(objects[images]), pairs.predicted).squeeze(1)
        for k in (5, 400):
            values, index = pairs.top_k(found, k)
            torch.testing.assert_close(values, overlap.topk(k).values)
            torch.testing.assert_close(overlap.gather(2, index).where(values > 0, 0), values)
