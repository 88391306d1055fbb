"""What somebody else's code writes against the public API: run by pytest, and checked by mypy."""

from typing import assert_type

import torch
from torch import Tensor

import boxwright
from boxwright.assigners import ATSSAssigner, DualAssigner, HardNegativeSampler, LossSampler, MaxIoUAssigner
from boxwright.boxes import AnchorGenerator, DeltaCoder, box_iou
from boxwright.criteria import DenseCriterion
from boxwright.losses import GIoULoss, Reduction, SigmoidFocalLoss, class_weights, giou_loss, rank_sort_loss
from boxwright.models import DenseDetector
from boxwright.structures import Assignment, Predictions, Priors, Targets


def test_parts_fit_together() -> None:
    priors = AnchorGenerator.square((8, 16))([(4, 4), (2, 2)])
    targets = Targets.from_list([{"boxes": torch.tensor([[1.0, 2.0, 25.0, 30.0]]), "labels": torch.tensor([2])}])
    assert_type(priors, Priors)
    assert_type(targets[0].to("cpu"), Targets)
    assignment = ATSSAssigner()(priors, targets)
    assert_type(assignment, Assignment)
    sampler: LossSampler = HardNegativeSampler()
    assert_type(sampler(assignment, torch.rand(1, len(priors))), Assignment)

    params = torch.zeros(1, len(priors), 4)
    predictions = Predictions(torch.zeros(1, len(priors), 3), params, boxes=DeltaCoder().decode(priors, params))
    many, one = DualAssigner()(priors, targets, predictions)
    assert_type(many.labels(targets), Tensor)
    assert one.positive.sum() <= 1

    criterion = DenseCriterion(MaxIoUAssigner(), SigmoidFocalLoss(), GIoULoss(), DeltaCoder())
    losses: dict[str, Tensor] = criterion(predictions, priors, targets)
    assert set(losses) == {"classification", "box"}


def test_functions_take_and_give_tensors() -> None:
    reduction: Reduction = "mean"
    assert_type(giou_loss(torch.rand(2, 4), torch.rand(2, 4), reduction=reduction), Tensor)
    ranking, sorting = rank_sort_loss(torch.tensor([3.0, 5.0, -2.0]), torch.tensor([0.9, 0.6, 0.0]))
    assert_type(ranking + sorting, Tensor)
    assert_type(class_weights("balanced", [1, 2]), Tensor)
    assert_type(box_iou(torch.rand(1, 4), torch.rand(2, 4)), Tensor)


def detections_of(run: str, image: Tensor) -> object:
    detector = boxwright.load(run, device="cpu")
    assert_type(detector, DenseDetector)
    return detector([image])
