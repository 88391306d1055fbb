"""What SSD's, YOLO's, Faster R-CNN's and the one-to-one assigner promise on random scenes with hostile boxes."""

import pytest
import torch
from hypothesis import given, settings

from assignment_scenes import scenes
from boxwright.assigners import (
    HungarianAssigner,
    ProposalAssigner,
    RatioGridAssigner,
    RPNAssigner,
    SSDAssigner,
    YOLOAssigner,
)
from boxwright.structures import Targets

ASSIGNERS = {
    "ssd": SSDAssigner(),
    "yolo": YOLOAssigner(),
    "yolo by shape": YOLOAssigner(ignore_by="shape"),
    "ratio grid": RatioGridAssigner(),
    "rpn": RPNAssigner(count=10**6),  # takes everybody: no chance
    "proposal": ProposalAssigner(count=10**6, positive_fraction=1.0),
    "hungarian": HungarianAssigner(class_form="focal"),
}


@pytest.mark.parametrize("name", ASSIGNERS)
@settings(max_examples=25, deadline=None)
@given(scene=scenes())
def test_promises(name, scene):
    priors, targets, predictions = scene
    assigner = ASSIGNERS[name]
    assignment = assigner(priors, targets, predictions)
    assert assignment.gt_index.dtype == torch.int64
    assert torch.equal(assignment.score, assignment.positive.float())
    assert (assignment.gt_index >= -2).all()
    for image, index in enumerate(assignment.gt_index):
        assert targets.objects[image][index[index >= 0]].all(), "matched with padding or crowd"
        if not targets.crowd[image].any() and name == "ssd":
            assert (index != -2).all()

    def widened(tensor: torch.Tensor) -> torch.Tensor:
        return torch.cat([tensor, tensor.new_ones(len(tensor), 2, *tensor.shape[2:])], dim=1)

    nowhere = torch.zeros(len(targets), 2, dtype=torch.bool)
    padded = Targets(
        widened(targets.boxes),
        widened(targets.labels),
        torch.cat([targets.valid, nowhere], dim=1),
        torch.cat([targets.crowd, nowhere], dim=1),
    )
    assert torch.equal(assigner(priors, padded, predictions).gt_index, assignment.gt_index)
    flipped = assigner(
        priors, targets.map(lambda tensor: tensor.flip(0)), predictions.map(lambda tensor: tensor.flip(0))
    )
    assert torch.equal(flipped.gt_index.flip(0), assignment.gt_index)
    doubled = assigner(priors, targets.map(lambda t: t.double() if t.is_floating_point() else t), predictions)
    assert torch.equal(doubled.gt_index, assignment.gt_index)
