"""What the options of the dense criterion mean, and what it hands to parts of a user's own."""

import pytest
import torch
from torch import Tensor, nn

from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import AnchorGenerator, DeltaCoder, aligned_iou
from boxwright.criteria import DenseCriterion, StageCriterion, dense
from boxwright.losses import (
    GaussianLoss,
    GIoULoss,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    SoftmaxCrossEntropyLoss,
    gaussian_loss,
    giou_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
)
from boxwright.structures import Assignment, Predictions, Priors, Targets

PRIORS = AnchorGenerator.square((8,), scale=2, offset=0.5)([(4, 4)])
POSITIVE, OWNER = [1, 2, 3], [0, 2, 1]


class Given:
    """An assigner that gives what it was told: three positives of the first image, nothing in the second."""

    needs_predictions = False

    def __init__(self, *scores: float) -> None:
        index = torch.full((2, 16), -1)
        index[0, POSITIVE], index[0, 15] = torch.tensor(OWNER), -2
        self.assignment = Assignment(index, torch.zeros(2, 16))
        self.assignment.score[0, POSITIVE] = torch.tensor(scores or (1.0, 1.0, 1.0))

    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None) -> Assignment:
        return self.assignment


def scene(dtype: torch.dtype = torch.float32, **extras: int) -> tuple[Predictions, Priors, Targets]:
    """Two images, the second without objects, and a head with extras of these widths."""
    boxes, none = torch.tensor([[2.0, 1, 20, 12], [22, 0, 31, 14], [9, 2, 26, 15]]), torch.zeros(0, 4)
    labels = torch.tensor([0, 2, 1])
    targets = Targets.from_list([{"boxes": boxes, "labels": labels}, {"boxes": none, "labels": labels[:0]}])
    logits, params, *others = (torch.randn(2, 16, n, dtype=dtype) for n in (3, 4, *extras.values()))
    named = dict(zip(extras, others, strict=True))
    return Predictions(logits.requires_grad_(), params.mul_(0.3).requires_grad_(), named), PRIORS, targets


def box_losses(predictions: Predictions, targets: Targets) -> Tensor:
    """GIoU losses (3,) of the positives."""
    boxes = DeltaCoder().decode(PRIORS, predictions.params)
    return giou_loss(boxes[0, POSITIVE], targets.boxes[0, OWNER])


@pytest.mark.parametrize("scores", [(0.9, 0.7, 0.8), (0.2, 0.1, 0.3)], ids=["sum above 1", "sum below 1"])
@pytest.mark.parametrize("summed", [True, False])
def test_scores_of_the_assigner_are_targets_whose_sum_is_the_divisor(scores, summed):
    predictions, priors, targets = scene()
    options = {} if summed else {"sum_targets": False}
    parts = Given(*scores), SigmoidFocalLoss(), GIoULoss(), DeltaCoder()
    criterion = DenseCriterion(*parts, soft_target="assignment", classification_weight=2.0, **options)
    losses = criterion(predictions, priors, targets)
    assignment, total = Given(*scores).assignment, max(1.0, sum(scores))
    labels = assignment.labels(targets)
    classification = sigmoid_focal_loss(predictions.logits, labels, scores=assignment.score, reduction="sum")
    torch.testing.assert_close(losses["classification"], 2 * classification / (total if summed else 3))
    box = (box_losses(predictions, targets) * torch.tensor(scores)).sum()
    torch.testing.assert_close(losses["box"], box / total)


@pytest.mark.parametrize("softmax", [False, True])
def test_boxes_weigh_as_much_as_their_best_class(softmax):
    predictions, priors, targets = scene(**({"background": 1} if softmax else {}))
    classification = SoftmaxCrossEntropyLoss() if softmax else SigmoidFocalLoss()
    criterion = DenseCriterion(Given(), classification, GIoULoss(), DeltaCoder(), weigh_boxes="score")
    losses = criterion(predictions, priors, targets)
    columns = predictions.columns()[0, POSITIVE].detach()
    weight = (columns.softmax(-1)[:, :3] if softmax else columns.sigmoid()).amax(-1)
    expected = (weight * box_losses(predictions, targets)).sum() / weight.sum().clamp(min=1)
    torch.testing.assert_close(losses["box"], expected)


def test_a_quality_counts_by_itself_and_may_be_scaled():
    """The overlap is learnt by the positives alone, each of which has its box in full."""
    predictions, priors, targets = scene(quality=1)
    parts = Given(), SigmoidFocalLoss(), GIoULoss(), DeltaCoder()
    options = {"quality": SigmoidCrossEntropyLoss(), "quality_target": "iou", "quality_weight": 0.5}
    losses = DenseCriterion(*parts, **options)(predictions, priors, targets)
    box = box_losses(predictions, targets)
    decoded = DeltaCoder().decode(PRIORS, predictions.params)[0, POSITIVE].detach()
    overlap = aligned_iou(decoded, targets.boxes[0, OWNER])
    quality = sigmoid_cross_entropy(predictions.extras["quality"][0, POSITIVE], overlap[:, None], reduction="sum")
    torch.testing.assert_close(losses["quality"], 0.5 * quality / 3)
    torch.testing.assert_close(losses["box"], box.mean())


def test_a_gaussian_loss_reads_deltas_and_their_variances():
    predictions, priors, targets = scene(log_variance=4)
    losses = DenseCriterion(Given(), SigmoidFocalLoss(), GaussianLoss(), DeltaCoder())(predictions, priors, targets)
    inputs = torch.cat([predictions.params, predictions.extras["log_variance"]], dim=-1)[0, POSITIVE]
    own = Priors(priors.boxes[POSITIVE], priors.centers[POSITIVE], priors.strides[POSITIVE])
    goal = DeltaCoder().encode(own, targets.boxes[0, OWNER])
    torch.testing.assert_close(losses["box"], gaussian_loss(inputs, goal).sum() / 3)


def test_processes_with_unequal_shares_average_to_the_whole_batch(monkeypatch):
    """Of two processes one has the image with objects, the other the one without; their gradients are averaged."""
    predictions, priors, targets = scene(quality=1)
    summed: list[Tensor] = []
    monkeypatch.setattr(dense, "all_reduce_sum", lambda value: summed.append(value) or value)
    given = Given()
    parts = given, SigmoidFocalLoss(), GIoULoss(), DeltaCoder()
    criterion = DenseCriterion(*parts, quality=SigmoidCrossEntropyLoss(), weigh_boxes="quality")
    whole, assignment = criterion(predictions, priors, targets), given.assignment
    (totals,) = summed
    monkeypatch.setattr(dense, "world_size", lambda: 2)
    monkeypatch.setattr(dense, "all_reduce_sum", lambda _: totals)
    shares = []
    for image in (slice(0, 1), slice(1, 2)):
        given.assignment = assignment[image]
        shares.append(criterion(predictions[image], priors, targets[image]))
    for name, loss in whole.items():
        torch.testing.assert_close(sum(share[name] for share in shares) / 2, loss)


@pytest.mark.parametrize("kind", [DenseCriterion, StageCriterion])
def test_an_assigner_sees_boxes_and_the_classes_of_a_softmax_as_sigmoids_without_gradient(kind):
    predictions, priors, targets = scene(background=1)
    seen = []

    def assigner(priors: Priors, targets: Targets, predictions: Predictions) -> Assignment:
        seen.append(predictions)
        return MaxIoUAssigner()(priors, targets)

    kind(assigner, SoftmaxCrossEntropyLoss(), GIoULoss(), DeltaCoder())(predictions, priors, targets)
    torch.testing.assert_close(seen[0].boxes, DeltaCoder().decode(priors, predictions.params).detach())
    torch.testing.assert_close(seen[0].logits.sigmoid(), predictions.columns().softmax(-1)[..., :3])
    assert not seen[0].logits.requires_grad
    assert not seen[0].boxes.requires_grad


class LogSides(nn.Module):
    """A box loss of a user's own, of real boxes only: the logarithm of a side that is zero has no gradient."""

    space = "boxes"

    def forward(self, inputs: Tensor, targets: Tensor, *, weight: Tensor, normalizer: Tensor) -> Tensor:
        assert inputs.dtype == torch.float32
        assert not weight.requires_grad
        sides, goals = (boxes[..., 2:] - boxes[..., :2] for boxes in (inputs, targets))
        return ((sides.log() - goals.log()).abs().sum(-1) * weight).sum() / normalizer


class Single(DeltaCoder):
    """A coder of a user's own."""

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        assert params.dtype == torch.float32
        return super().decode(priors, params)


def test_parts_of_ones_own_get_real_boxes_in_single_precision():
    """Also at priors without an object and in images without any, whose targets are padding."""
    predictions, priors, targets = scene(torch.bfloat16)

    def sampler(assignment: Assignment, loss: Tensor) -> Assignment:
        assert loss.shape == (2, 16)
        assert not loss.requires_grad
        return assignment

    parts = Given(), SigmoidFocalLoss(), LogSides(), Single()
    criterion = DenseCriterion(*parts, sampler=sampler, soft_target="iou")
    losses = criterion(predictions, priors, targets)
    (gradient,) = torch.autograd.grad(losses["box"], predictions.params)
    assert losses["box"].isfinite()
    assert gradient[0, POSITIVE].ne(0).any()
    assert gradient.isfinite().all()


def test_soft_targets_by_overlap_with_a_loss_of_deltas():
    predictions, priors, targets = scene()
    parts = Given(), SigmoidFocalLoss(), SmoothL1Loss(), DeltaCoder()
    losses = DenseCriterion(*parts, soft_target="iou")(predictions, priors, targets)
    by_boxes = DenseCriterion(Given(), SigmoidFocalLoss(), GIoULoss(), DeltaCoder(), soft_target="iou")
    expected = by_boxes(predictions, priors, targets)["classification"]
    torch.testing.assert_close(losses["classification"], expected)
