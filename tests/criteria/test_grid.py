"""The grid criteria against the losses that the golden cases check, on what a network gave."""

from functools import partial

import pytest
import torch

from boxwright.boxes import AnchorGenerator, xyxy_to_cxcywh
from boxwright.criteria import RegionCriterion, YOLOCriterion, grid
from boxwright.losses.systems import darknet_yolo_loss, region_loss, yolov3, yolov3_loss
from boxwright.models.darknet.detector import GridHead
from boxwright.structures import Targets

CLASSES = 3
ANCHORS = [(8.0, 10.0), (20.0, 16.0), (30.0, 40.0), (60.0, 50.0)]
MASKS, STRIDES = [(0, 1), (2, 3)], [16.0, 32.0]
SIZE = (64, 96)
THRESHOLDS = {"ignore_thresh": 0.2, "truth_thresh": 0.4}  # so low that some predictions are above both


def scene(masks, strides, *, crowd=False, objects=True):
    """Return features, predictions, priors and targets of two images, of which the second has fewer objects."""
    generator = torch.Generator().manual_seed(0)
    features = [
        torch.randn(
            2, len(mask) * (5 + CLASSES), SIZE[0] // int(stride), SIZE[1] // int(stride), generator=generator
        ).requires_grad_()
        for mask, stride in zip(masks, strides, strict=True)
    ]
    boxes = [[[4, 5, 30, 50], [20, 2, 28, 12], [40, 10, 90, 60]], [[10, 10, 50, 40]]]
    labels = [[0, 2, 1], [2]]
    targets = Targets.from_list(
        [
            {
                "boxes": torch.tensor(box if objects else []).float().view(-1, 4),
                "labels": torch.tensor(label if objects else [], dtype=torch.int64),
                "iscrowd": torch.tensor([crowd] * len(label) if objects else [], dtype=torch.bool),
            }
            for box, label in zip(boxes, labels, strict=True)
        ]
    )
    shapes = tuple(tuple(ANCHORS[index] for index in mask) for mask in masks)
    priors = AnchorGenerator(tuple(strides), shapes)([feature.shape[-2:] for feature in features])
    return features, GridHead(CLASSES)(features), priors, targets


def fractions(targets):
    return xyxy_to_cxcywh(targets.boxes) / torch.tensor([SIZE[1], SIZE[0], SIZE[1], SIZE[0]])


def same(features, losses, expected, images=2):
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name] / images)
    ours = torch.autograd.grad(sum(losses.values()), features, retain_graph=True)
    theirs = torch.autograd.grad(sum(expected.values()) / images, features)
    torch.testing.assert_close(ours, theirs)


def test_yolo_is_the_mean_over_images_of_darknets_layers():
    features, predictions, priors, targets = scene(MASKS, STRIDES)
    criterion = YOLOCriterion(ANCHORS, MASKS, STRIDES, **THRESHOLDS)
    losses = criterion(predictions, priors, targets)
    layers = [
        darknet_yolo_loss(
            feature, fractions(targets), targets.labels, targets.objects, anchors=torch.tensor(ANCHORS), mask=mask,
            net_size=SIZE, **THRESHOLDS,
        )
        for feature, mask in zip(features, MASKS, strict=True)
    ]  # fmt: skip
    same(features, losses, {name: sum(layer[name] for layer in layers) for name in losses})
    # darknet reports the mean of its layers' costs
    torch.testing.assert_close(criterion.cost, sum(losses.values()).detach() / len(MASKS))
    assert not criterion.cost.requires_grad
    assert criterion.normalizer == criterion.positives == 2


@pytest.mark.parametrize("make", [partial(YOLOCriterion, form=form) for form in ("darknet", "pytorch-yolov3")])
def test_yolo_counts_the_images_it_was_trained_on(make):
    _, *batch = scene(MASKS, STRIDES)
    criterion = make(ANCHORS, MASKS, STRIDES)
    assert list(criterion.state_dict()) == ["seen"]
    criterion.seen += 2**25 + 1  # which single precision cannot hold
    criterion(*batch)
    criterion.eval()(*batch)
    assert criterion.state_dict()["seen"] == 2**25 + 3


@pytest.mark.parametrize("form", ["darknet", "pytorch-yolov3", "region"])
def test_processes_with_unequal_shares_average_to_the_whole_batch(monkeypatch, form):
    """Of two processes one has the first image, the other the second and third, or all of them."""
    masks, strides = ([range(4)], [32.0]) if form == "region" else (MASKS, STRIDES)
    criterion = RegionCriterion if form == "region" else partial(YOLOCriterion, form=form)
    criterion = criterion(ANCHORS, masks, strides)
    _, predictions, priors, targets = scene(masks, strides)
    twice = [0, 1, 1]
    predictions, targets = predictions.map(lambda t: t[twice]), targets.map(lambda t: t[twice])
    sums: list[torch.Tensor] = []
    for module in (grid, yolov3):
        name = "all_reduce_sum" if module is grid else "mean_over_processes"
        monkeypatch.setattr(module, name, lambda value: sums.append(value.float()) or value)
    whole = criterion(predictions, priors, targets)
    monkeypatch.setattr(grid, "world_size", lambda: 2)
    for split in ((slice(0, 1), slice(1, 3)), (slice(0, 0), slice(0, 3))):
        shares = []
        for part in split:
            found = iter(sums)
            monkeypatch.setattr(grid, "all_reduce_sum", lambda _, found=found: next(found))
            monkeypatch.setattr(yolov3, "mean_over_processes", lambda _, found=found: next(found) / 2)
            shares.append(criterion(predictions[part], priors, targets[part]))
            assert next(found, None) is None
        for name, loss in whole.items():
            torch.testing.assert_close(sum(share[name] for share in shares) / 2, loss)


def test_yolo_in_the_form_of_the_port():
    features, predictions, priors, targets = scene(MASKS, STRIDES)
    losses = YOLOCriterion(ANCHORS, MASKS, STRIDES, form="pytorch-yolov3")(predictions, priors, targets)
    cells = [torch.tensor(ANCHORS)[list(mask)] / stride for mask, stride in zip(MASKS, STRIDES, strict=True)]
    expected = yolov3_loss(features, fractions(targets), targets.labels, targets.objects, anchors=cells)
    same(features, losses, expected, images=1)


@pytest.mark.parametrize("form", ["darknet", "pytorch-yolo2", "andy-yun"])
def test_region_counts_the_images_it_has_seen(form):
    features, predictions, priors, targets = scene([range(4)], [32.0])
    criterion = RegionCriterion(ANCHORS, [range(4)], [32.0], form=form, warmup=2)
    for seen in (0, 2):  # the second batch is past the warm-up
        assert criterion.state_dict()["loss.seen"] == seen
        losses = criterion(predictions, priors, targets)
        expected = region_loss(
            features[0], fractions(targets), targets.labels, targets.objects, anchors=torch.tensor(ANCHORS) / 32,
            seen=seen, warmup=2, form=form,
        )  # fmt: skip
        same(features, losses, expected)


def test_predictions_in_a_crowd_are_not_pushed_towards_nothing():
    _, predictions, priors, targets = scene(MASKS, STRIDES, crowd=True)
    losses = YOLOCriterion(ANCHORS, MASKS, STRIDES)(predictions, priors, targets)
    gradient = torch.autograd.grad(sum(losses.values()), predictions.extras["quality"])[0].squeeze(-1)
    inside = (priors.centers > torch.tensor([50, 18])) & (priors.centers < torch.tensor([80, 52]))
    small = torch.arange(len(priors)) < priors.levels[0].size
    covered = inside.all(dim=1) & small
    assert covered.any()
    assert (gradient[0, covered] == 0).all()
    assert (gradient[1, covered] > 0).any()


@pytest.mark.parametrize("make", [YOLOCriterion, RegionCriterion])
def test_images_without_objects_give_a_finite_loss_that_reaches_everything(make):
    masks, strides = (MASKS, STRIDES) if make is YOLOCriterion else ([range(4)], [32.0])
    features, predictions, priors, targets = scene(masks, strides, objects=False)
    losses = make(ANCHORS, masks, strides)(predictions, priors, targets)
    assert losses["objectness"] > 0
    assert losses["class"] == 0
    gradients = torch.autograd.grad(sum(losses.values()), features)
    assert all(gradient.isfinite().all() for gradient in gradients)


def test_priors_of_another_network_are_refused():
    _, predictions, priors, targets = scene(MASKS, STRIDES)
    with pytest.raises(ValueError, match=r"\[\(2, 32.0\), \(2, 16.0\)\] anchors and strides, the priors have"):
        YOLOCriterion(ANCHORS, MASKS, STRIDES[::-1])(predictions, priors, targets)
