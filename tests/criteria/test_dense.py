import math

import pytest
import torch

from boxwright.assigners import DynamicSoftLabelAssigner, HardExampleSampler, HardNegativeSampler, MaxIoUAssigner
from boxwright.boxes import AnchorGenerator, DeltaCoder, IntegralCoder, aligned_iou
from boxwright.criteria import DenseCriterion, centerness
from boxwright.losses import (
    DistributionFocalLoss,
    GIoULoss,
    QualityFocalLoss,
    SigmoidCrossEntropyLoss,
    SigmoidFocalLoss,
    SmoothL1Loss,
    SoftmaxCrossEntropyLoss,
    distribution_focal_loss,
    giou_loss,
    sigmoid_cross_entropy,
    sigmoid_focal_loss,
    smooth_l1_loss,
    softmax_cross_entropy,
)
from boxwright.structures import Predictions, Priors, Targets

CLASSES = 3


@pytest.fixture
def priors():
    return AnchorGenerator.retinanet((8, 16))([(4, 4), (2, 2)])


def _criterion(box=None, **options):
    return DenseCriterion(MaxIoUAssigner(), SigmoidFocalLoss(), box or GIoULoss(), DeltaCoder(), **options)


def _predictions(priors, images=2):
    logits = torch.randn(images, len(priors), CLASSES, requires_grad=True)
    params = (0.3 * torch.randn(images, len(priors), 4)).requires_grad_()
    return Predictions(logits, params)


def _targets(*counts, crowd=False):
    corners = [5 + 10 * torch.rand(count, 2) for count in counts]
    return Targets.from_list(
        [
            {
                "boxes": torch.cat([xy, xy + 8 + 8 * torch.rand(len(xy), 2)], dim=1),
                "labels": torch.arange(len(xy)) % CLASSES,
                "iscrowd": torch.full((len(xy),), crowd),
            }
            for xy in corners
        ]
    )


@pytest.mark.parametrize(("box", "space"), [(GIoULoss(), "boxes"), (SmoothL1Loss(beta=0.1), "deltas")])
def test_equals_the_losses_computed_prior_by_prior(priors, box, space):
    predictions, targets = _predictions(priors), _targets(3, 2)
    losses = _criterion(box, box_weight=2.0)(predictions, priors, targets)
    assignment = MaxIoUAssigner()(priors, targets)
    classification, regression, positives = 0.0, 0.0, 0
    for image in range(2):
        for prior in range(len(priors)):
            match = int(assignment.gt_index[image, prior])
            if match == -2:
                continue
            label = torch.tensor(int(targets.labels[image, match]) if match >= 0 else -1)
            classification += sigmoid_focal_loss(predictions.logits[image, prior], label, reduction="sum")
            if match >= 0:
                positives += 1
                one = Priors(priors.boxes[prior][None], priors.centers[prior][None], priors.strides[prior][None])
                param, goal = predictions.params[image, prior][None], targets.boxes[image, match][None]
                if space == "boxes":
                    regression += giou_loss(DeltaCoder().decode(one, param), goal, reduction="sum")
                else:
                    regression += smooth_l1_loss(param, DeltaCoder().encode(one, goal), beta=0.1, reduction="sum")
    assert positives > 2
    torch.testing.assert_close(losses["classification"], classification / positives)
    torch.testing.assert_close(losses["box"], 2 * regression / positives)


@pytest.mark.parametrize("targets", [_targets(0, 0), _targets(0, 2), _targets(2, 3, crowd=True)])
def test_without_objects_losses_stay_finite_and_connected(priors, targets):
    predictions = _predictions(priors)
    losses = _criterion()(predictions, priors, targets)
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert predictions.logits.grad.isfinite().all()
    assert predictions.params.grad.isfinite().all()


def test_padding_changes_nothing(priors):
    predictions, targets = _predictions(priors), _targets(3, 2)
    padded = Targets.from_list(targets.to_list(), pad_to_multiple=16)
    plain, more = (_criterion()(predictions, priors, batch) for batch in (targets, padded))
    torch.testing.assert_close(plain, more, rtol=0, atol=0)


def test_soft_targets_by_overlap_are_divided_by_the_number_of_positives(priors):
    predictions, targets = _predictions(priors), _targets(3, 2)
    losses = _criterion(soft_target="iou")(predictions, priors, targets)
    assignment = MaxIoUAssigner()(priors, targets)
    boxes = DeltaCoder().decode(priors, predictions.params)
    overlap = assignment.positive * aligned_iou(boxes, assignment.boxes(targets)).detach()
    classification = sigmoid_focal_loss(predictions.logits, assignment.labels(targets), scores=overlap, reduction="sum")
    torch.testing.assert_close(losses["classification"], classification / assignment.positive.sum())
    box = giou_loss(boxes, assignment.boxes(targets), weight=overlap, reduction="sum")
    torch.testing.assert_close(losses["box"], box / overlap.sum().clamp(min=1))


@pytest.mark.parametrize("quality_target", ["centerness", "iou"])
def test_distribution_and_quality_losses(priors, quality_target):
    predictions, targets = _predictions(priors), _targets(3, 2)
    sides = torch.randn(2, len(priors), 4 * 5, requires_grad=True)
    quality = torch.randn(2, len(priors), 1, requires_grad=True)
    coder = IntegralCoder(reg_max=4)
    criterion = DenseCriterion(
        MaxIoUAssigner(),
        QualityFocalLoss(),
        GIoULoss(),
        coder,
        distribution=DistributionFocalLoss(),
        quality=SigmoidCrossEntropyLoss(),
        quality_target=quality_target,
        weigh_boxes="quality",
    )
    losses = criterion(Predictions(predictions.logits, sides, {"quality": quality}), priors, targets)
    assignment = MaxIoUAssigner()(priors, targets)
    matched, positive = assignment.boxes(targets), assignment.positive
    overlap = aligned_iou(coder.decode(priors, sides), matched)
    goal = (positive * (overlap if quality_target == "iou" else centerness(priors, matched))).detach()
    expected = sigmoid_cross_entropy(quality[positive], goal[positive][:, None], reduction="sum") / positive.sum()
    torch.testing.assert_close(losses["quality"], expected)
    each = distribution_focal_loss(sides.unflatten(-1, (4, -1)), coder.encode(priors, matched)).mean(-1)
    torch.testing.assert_close(losses["distribution"], 0.25 * (each * goal).sum() / goal.sum().clamp(min=1))


def test_centerness():
    centers = torch.tensor([[4.0, 4.0], [7.0, 3.0], [0.0, 4.0], [9.0, 4.0], [7.5, 0.5]])
    boxes = torch.tensor([[0.0, 0, 8, 8]]).repeat(5, 1)
    boxes[4] = torch.tensor([7.5, 0.5, 7.5, 0.5])  # of no extent
    found = centerness(Priors(boxes, centers, torch.ones(5)), boxes[None])
    expected = [1, math.sqrt(1 / 7 * 3 / 5), 0, 0, 0]
    torch.testing.assert_close(found, torch.tensor([expected]))


def test_the_normalizer_is_that_of_the_whole_batch(priors):
    predictions, targets = _predictions(priors), _targets(3, 0)
    whole = _criterion()
    losses = whole(predictions, priors, targets)
    parts = _criterion()
    summed = 0.0
    for image in range(2):
        losses_of_image = parts(predictions[image : image + 1], priors, targets[image])
        summed = summed + losses_of_image["box"] * parts.normalizer
    torch.testing.assert_close(losses["box"], summed / whole.normalizer)
    assert not whole.state_dict()


def test_compiles_as_one_graph_for_any_number_of_objects(priors):
    criterion = _criterion()
    compiled = torch.compile(criterion, fullgraph=True, backend="eager", dynamic=True)
    for counts in ((3, 2), (5, 1), (4, 4)):
        predictions, targets = _predictions(priors), _targets(*counts)
        torch.testing.assert_close(compiled(predictions, priors, targets), criterion(predictions, priors, targets))


def test_a_guide_decides_the_assignment_and_is_charged_alike(priors):
    own, guide, targets = _predictions(priors), _predictions(priors), _targets(3, 2)
    criterion = DenseCriterion(
        DynamicSoftLabelAssigner(), QualityFocalLoss(), GIoULoss(), DeltaCoder(), soft_target="iou"
    )
    extras = {"guide_logits": guide.logits, "guide_params": guide.params}
    losses = criterion(Predictions(own.logits, own.params, extras), priors, targets)
    alone = criterion(guide, priors, targets)
    torch.testing.assert_close(losses["guide_classification"], alone["classification"])
    torch.testing.assert_close(losses["guide_box"], alone["box"])

    def by_guide(priors, targets, _):
        boxes = DeltaCoder().decode(priors, guide.params)
        return DynamicSoftLabelAssigner()(priors, targets, guide.with_boxes(boxes).detach())

    criterion.assigner = by_guide
    expected = criterion(own, priors, targets)
    torch.testing.assert_close(losses["classification"], expected["classification"])
    torch.testing.assert_close(losses["box"], expected["box"])
    sum(losses.values()).backward()
    assert own.logits.grad.abs().sum() > 0
    assert guide.logits.grad.abs().sum() > 0


@pytest.mark.parametrize("softmax", [False, True])
def test_of_the_background_only_the_hardest_is_charged(priors, softmax):
    """Image by image: three times as much background as positives, the costliest by cross-entropy."""
    predictions, targets = _predictions(priors, images=3), _targets(3, 0, 2)
    extras = {"background": torch.randn(3, len(priors), 1)} if softmax else {}
    predictions = Predictions(predictions.logits, predictions.params, extras)
    loss = SoftmaxCrossEntropyLoss() if softmax else SigmoidFocalLoss()
    options = {"sampler": HardNegativeSampler(ratio=3)}
    criterion = DenseCriterion(MaxIoUAssigner(), loss, SmoothL1Loss(), DeltaCoder(), **options)
    losses = criterion(predictions, priors, targets)
    assignment = MaxIoUAssigner()(priors, targets)
    labels, columns = assignment.labels(targets), predictions.columns()
    cost = softmax_cross_entropy(columns, labels) if softmax else sigmoid_cross_entropy(columns, labels).sum(-1)
    charged = cost if softmax else sigmoid_focal_loss(columns, labels).sum(-1)
    expected = 0.0
    for image in range(3):
        positives = int(assignment.positive[image].sum())
        background = (labels[image] == -1).nonzero().squeeze(1).tolist()
        hardest = sorted(background, key=lambda prior: -cost[image, prior].item())[: 3 * positives]
        expected += charged[image, assignment.positive[image]].sum() + charged[image, hardest].sum()
    assert (labels[1] == -1).sum() > 10
    torch.testing.assert_close(losses["classification"], expected / assignment.positive.sum())
    compiled = torch.compile(criterion, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(predictions, priors, targets), losses)


def test_the_hardest_examples_of_all(priors):
    predictions, targets = _predictions(priors), _targets(3, 2)
    losses = _criterion(sampler=HardExampleSampler(count=5))(predictions, priors, targets)
    assignment = MaxIoUAssigner()(priors, targets)
    labels = assignment.labels(targets)
    cost = sigmoid_cross_entropy(predictions.logits, labels).sum(-1).masked_fill(assignment.ignored, -1)
    kept = torch.zeros_like(labels, dtype=torch.bool).scatter(1, cost.topk(5, dim=1).indices, True)
    each = sigmoid_focal_loss(predictions.logits, labels).sum(-1)
    positives = (assignment.positive & kept).sum().clamp(min=1)
    torch.testing.assert_close(losses["classification"], each[kept].sum() / positives)


@pytest.mark.parametrize("targets", [_targets(0, 0), _targets(2, 3, crowd=True)])
def test_without_objects_nothing_is_mined(priors, targets):
    predictions = _predictions(priors)
    losses = _criterion(sampler=HardNegativeSampler())(predictions, priors, targets)
    assert losses["classification"] == losses["box"] == 0
    sum(losses.values()).backward()
    assert predictions.logits.grad.abs().max() == predictions.params.grad.abs().max() == 0


def test_an_assigner_that_needs_no_predictions_gets_none(priors):
    predictions, targets = _predictions(priors), _targets(3, 2)
    seen = []

    class Watched:
        needs_predictions = False

        def __call__(self, priors, targets, predictions):
            seen.append(predictions)
            return MaxIoUAssigner()(priors, targets)

    criterion = DenseCriterion(Watched(), SigmoidFocalLoss(), SmoothL1Loss(beta=0.1), DeltaCoder())
    losses = criterion(predictions, priors, targets)
    torch.testing.assert_close(losses, _criterion(SmoothL1Loss(beta=0.1))(predictions, priors, targets))
    assert seen == [None]
    seen.clear()
    criterion.assigner = lambda *given: seen.append(given[2]) or MaxIoUAssigner()(*given[:2])
    criterion(predictions, priors, targets)
    assert seen[0].boxes.shape == (2, len(priors), 4)


def test_functions_and_classes_are_told_from_modules():
    parts = {"classification": SigmoidFocalLoss(), "box": GIoULoss()}
    for name, wrong in (
        ("classification", sigmoid_focal_loss),
        ("classification", SigmoidFocalLoss),
        ("box", giou_loss),
        ("box", GIoULoss),
        ("box", SigmoidFocalLoss()),
        ("box", DistributionFocalLoss()),
    ):
        with pytest.raises(TypeError, match=f"{name} must be a loss module.* such as .*, got "):
            DenseCriterion(MaxIoUAssigner(), **parts | {name: wrong}, coder=DeltaCoder())
