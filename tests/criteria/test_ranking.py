from typing import Any

import pytest
import torch

from boxwright.assigners import ATSSAssigner, HardNegativeSampler
from boxwright.boxes import AnchorGenerator, DeltaCoder
from boxwright.criteria import ALRPCriterion, BalancedCriterion, DenseCriterion, ranking
from boxwright.losses import (
    ALRPLoss,
    DistributionFocalLoss,
    GIoULoss,
    RankSortLoss,
    SigmoidCrossEntropyLoss,
    SmoothL1Loss,
    alrp_loss,
    giou_loss,
)
from boxwright.structures import Predictions, Priors, Targets


def scene(objects: int = 2) -> tuple[Predictions, Priors, Targets]:
    priors = AnchorGenerator.square((8, 16), scale=2, offset=0.5)([(6, 6), (3, 3)])
    corners = 4 + 16 * torch.rand(2, objects, 2)
    boxes = torch.cat([corners, corners + 14], dim=-1)
    targets = Targets.from_list([{"boxes": own, "labels": torch.arange(objects) % 3} for own in boxes])
    logits = torch.randn(2, len(priors), 3, requires_grad=True)
    return Predictions(logits, (0.1 * torch.randn(2, len(priors), 4)).requires_grad_()), priors, targets


def test_rank_sort_balances_its_boxes_by_value() -> None:
    predictions, priors, targets = scene()
    parts = ATSSAssigner(), RankSortLoss(), GIoULoss(), DeltaCoder()
    options = {"soft_target": "iou", "weigh_boxes": "score"}
    losses = BalancedCriterion(*parts, **options)(predictions, priors, targets)
    torch.testing.assert_close(losses["box"], losses["classification"])
    (change,) = torch.autograd.grad(losses["box"], predictions.params)
    plain = DenseCriterion(*parts, **options)(predictions, priors, targets)
    (without,) = torch.autograd.grad(plain["box"], predictions.params)
    torch.testing.assert_close(change, without * (plain["classification"] / plain["box"]).detach())


@pytest.mark.parametrize("objects", [0, 2])
def test_alrp_ranks_the_boxes_of_the_batch(objects: int) -> None:
    predictions, priors, targets = scene(objects)
    parts = ATSSAssigner(), ALRPLoss(balance=3.0, period=2), GIoULoss(), DeltaCoder()
    criterion = ALRPCriterion(*parts, classification_weight=2.0, box_weight=0.5)
    losses = criterion(predictions, priors, targets)
    assignment = ATSSAssigner()(priors, targets)
    matched = torch.where(assignment.positive[..., None], assignment.boxes(targets), priors.boxes)
    boxes = giou_loss(DeltaCoder().decode(priors, predictions.params), matched)
    classification, localization = alrp_loss(predictions.logits, assignment.labels(targets), boxes)
    torch.testing.assert_close(losses["classification"], 2 * classification)
    torch.testing.assert_close(losses["box"], 0.5 * 3 * localization)
    assert criterion.positives == assignment.positive.sum()
    assert criterion.normalizer == max(1, assignment.positive.sum())
    sum(losses.values()).backward()
    assert predictions.params.grad.any() == (objects > 0)
    criterion(predictions, priors, targets)
    ratio = (classification + localization) / localization if objects else torch.tensor(3.0)
    torch.testing.assert_close(criterion.classification.balance, ratio.detach())
    assert not criterion.classification.history.any()


def test_alrp_tells_how_many_positives_all_processes_have(monkeypatch: pytest.MonkeyPatch) -> None:
    criterion, batch = ALRPCriterion(ATSSAssigner(), ALRPLoss(), GIoULoss(), DeltaCoder()), scene()
    criterion(*batch)
    alone = criterion.positives
    monkeypatch.setattr(ranking, "world_size", lambda: 2)
    monkeypatch.setattr(ranking, "all_reduce_sum", lambda own: own + 5)  # the other process has five
    criterion(*batch)
    assert criterion.positives == alone + 5
    assert criterion.normalizer == (alone + 5) / 2


def test_an_image_of_nothing_leaves_the_balance_finite() -> None:
    predictions, priors, targets = scene(0)
    losses = BalancedCriterion(ATSSAssigner(), RankSortLoss(), GIoULoss(), DeltaCoder())(predictions, priors, targets)
    sum(losses.values()).backward()
    assert losses["box"] == 0
    assert not predictions.params.grad.any()


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"sampler": HardNegativeSampler()}, "needs sampler=None"),
        ({"quality": SigmoidCrossEntropyLoss()}, "without distribution or quality part"),
        ({"distribution": DistributionFocalLoss()}, "without distribution or quality part"),
    ],
)
def test_alrp_refuses_other_parts(part: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ALRPCriterion(ATSSAssigner(), ALRPLoss(), GIoULoss(), DeltaCoder(), **part)


def test_alrp_refuses_losses_of_deltas() -> None:
    with pytest.raises(ValueError, match="decoded boxes"):
        ALRPCriterion(ATSSAssigner(), ALRPLoss(), SmoothL1Loss(), DeltaCoder())
