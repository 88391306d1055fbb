"""What every dense assigner promises, on random scenes with hostile boxes, and against dense references."""

from dataclasses import replace
from unittest import mock

import pytest
import torch
from hypothesis import given, settings

import dense_assigners
from assignment_scenes import make_predictions, make_priors, make_targets, scenes
from boxwright.assigners import (
    ATSSAssigner,
    DynamicSoftLabelAssigner,
    MaxIoUAssigner,
    SimOTAAssigner,
    TaskAlignedAssigner,
)
from boxwright.assigners.blocks import BLOCK_ELEMENTS
from boxwright.structures import Assignment, Targets

ASSIGNERS = {
    "max_iou": MaxIoUAssigner(),
    "max_iou rpn first": MaxIoUAssigner(0.7, 0.3, min_positive_iou=0.3, low_quality="first"),
    "max_iou ap-loss": MaxIoUAssigner(plus_one=True, keep_argmax=True),
    "atss": ATSSAssigner(),
    "atss original": ATSSAssigner.original(),
    "atss paddle": ATSSAssigner.paddle(force_match=True, soft_scores=True),
    "tood": TaskAlignedAssigner(),
    "tood paddle": TaskAlignedAssigner.paddle(),
    "tood ultralytics": TaskAlignedAssigner.ultralytics(final_topk=7),
    "simota": SimOTAAssigner(),
    "simota mmdet": SimOTAAssigner.mmdet(),
    "rtmdet": DynamicSoftLabelAssigner(),
    "nanodet": DynamicSoftLabelAssigner(center_radius=None),
}
EVERY = pytest.mark.parametrize("name", ASSIGNERS)
EXAMPLES = settings(max_examples=12, deadline=None, derandomize=True)


def same(a: Assignment, b: Assignment) -> None:
    assert torch.equal(a.gt_index, b.gt_index)
    assert torch.equal(a.score, b.score)


@EVERY
@EXAMPLES
@given(scene=scenes())
def test_result_is_sound(name, scene):
    priors, targets, predictions = scene
    assignment = ASSIGNERS[name](priors, targets, predictions)
    assert assignment.gt_index.shape == assignment.score.shape == (len(targets), len(priors))
    assert assignment.gt_index.dtype == torch.int64
    assert assignment.score.dtype == torch.float32
    assert assignment.gt_index.min() >= -2
    assert assignment.score.isfinite().all()
    assert (assignment.score >= 0).all()
    assert (assignment.score[~assignment.positive] == 0).all()
    if targets.labels.shape[1]:
        assert targets.objects.gather(1, assignment.gt_index.clamp(min=0))[assignment.positive].all()
    if name.startswith(("atss", "tood")):  # only regions make these ignore
        assert not assignment.ignored[~targets.crowd.any(1)].any()


@EVERY
@EXAMPLES
@given(scene=scenes())
def test_blocks_do_not_show(name, scene):
    whole = ASSIGNERS[name](*scene)
    for elements in (1, 1000):
        with mock.patch.dict(BLOCK_ELEMENTS, cpu=elements):
            same(ASSIGNERS[name](*scene), whole)


@EVERY
@EXAMPLES
@given(scene=scenes())
def test_padding_and_order_of_images_change_nothing(name, scene):
    priors, targets, predictions = scene
    assignment = ASSIGNERS[name](priors, targets, predictions)
    images = len(targets)
    extra = Targets(torch.full((images, 3, 4), 7.0), torch.zeros(images, 3).long(), *torch.zeros(2, images, 3).bool())
    padded = Targets(
        *(torch.cat([getattr(targets, f), getattr(extra, f)], 1) for f in ("boxes", "labels", "valid", "crowd"))
    )
    same(ASSIGNERS[name](priors, padded, predictions), assignment)
    back = torch.arange(images - 1, -1, -1)
    turned = ASSIGNERS[name](priors, targets.map(lambda t: t[back]), predictions.map(lambda t: t[back]))
    same(turned.map(lambda t: t[back]), assignment)


@pytest.mark.parametrize("name", sorted(ASSIGNERS.keys() - {"nanodet"}))  # whose cost is equal for all apart boxes
@EXAMPLES
@given(scene=scenes(hostile=False))
def test_order_of_objects_changes_nothing(name, scene):
    """Where no two objects tie; max-IoU lets the last of several claimants win, so it is compared without claims."""
    priors, targets, predictions = scene
    assigner = ASSIGNERS[name]
    if isinstance(assigner, MaxIoUAssigner) and not assigner.keep_argmax:
        assigner = replace(assigner, low_quality="none")
    if isinstance(assigner, SimOTAAssigner):
        assigner = replace(assigner, penalty=1e3)  # beside a million, float32 knows no cents
    order = torch.randperm(targets.labels.shape[1])
    shuffled = assigner(priors, targets.map(lambda t: t[:, order]), predictions)
    if len(order):
        index = torch.where(shuffled.positive, order[shuffled.gt_index.clamp(min=0)], shuffled.gt_index)
        shuffled = replace(shuffled, gt_index=index)
    same(shuffled, assigner(priors, targets, predictions))


@pytest.mark.parametrize("name", ["max_iou", "atss", "tood"])
@settings(max_examples=40, deadline=None, derandomize=True)
@given(scene=scenes(crowd=False))
def test_equals_dense_on_hostile_scenes(name, scene):
    priors, targets, predictions = scene
    predictions = predictions.with_boxes(predictions.boxes.clamp(-1e9, 1e9))  # a dense matrix of IoUs overflows
    dense = "task_aligned" if name == "tood" else name
    seen = predictions if name == "tood" else None
    expected = dense_assigners.per_image(dense, priors, targets, seen)
    assignment = ASSIGNERS[name](priors, targets, predictions)
    assert torch.equal(assignment.gt_index, expected.gt_index)
    torch.testing.assert_close(assignment.score, expected.score, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("name", "dense"), [("simota", "simota"), ("rtmdet", "dynamic_soft_label")])
@settings(max_examples=30, deadline=None, derandomize=True)
@given(scene=scenes(hostile=False, crowd=False))
def test_dynamic_k_equals_dense(name, dense, scene):
    expected = dense_assigners.per_image(dense, *scene)
    assert torch.equal(ASSIGNERS[name](*scene).gt_index, expected.gt_index)


@EVERY
def test_covered_priors_are_ignored(name):
    priors, predictions = make_priors(), make_predictions(0, make_priors(), 1, hostile=False)
    targets = Targets.from_list(
        [
            {
                "boxes": torch.tensor([[0.0, 0.0, 200.0, 200.0], [10.0, 10.0, 40.0, 40.0]]),
                "labels": torch.tensor([0, 1]),
                "iscrowd": torch.tensor([True, False]),
            }
        ]
    )
    covering = targets.map(lambda t: t.clone())
    covering.boxes[0, 0] -= torch.tensor([100.0, 100.0, 0.0, 0.0])
    assert ASSIGNERS[name](priors, covering, predictions).ignored.all()
    never = replace(ASSIGNERS[name], ignore_threshold=None)
    assert never(priors, targets, predictions).positive.any()


@EVERY
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_dtypes_of_predictions(name, dtype):
    """Predictions of another precision are as if they had been rounded."""
    priors = make_priors(3)
    targets = make_targets(5, 2, 5, hostile=False, crowd=True)
    predictions = make_predictions(5, priors, 2, hostile=False)
    rounded = predictions.map(lambda t: t.bfloat16().float())
    expected = ASSIGNERS[name](priors, targets, rounded)
    actual = ASSIGNERS[name](priors, targets, rounded.map(lambda t: t.to(dtype)))
    assert torch.equal(actual.gt_index, expected.gt_index)
    torch.testing.assert_close(actual.score, expected.score, atol=1e-6, rtol=1e-5)


@EVERY
def test_more_objects_than_priors(name):
    priors = make_priors(height=8, width=8)
    targets = make_targets(1, 2, 40, hostile=True, crowd=True)
    predictions = make_predictions(1, priors, 2, hostile=True)
    assert ASSIGNERS[name](priors, targets, predictions).gt_index.shape == (2, 3)
