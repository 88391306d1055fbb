"""`check_assigner` lets a good assigner pass and says what is wrong with a bad one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import box_iou
from boxwright.structures import Assignment, Predictions, Priors, Targets
from boxwright.testing import check_assigner


def overlapping(priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
    """One's own: the object that a prior overlaps most, if by a tenth."""
    objects = torch.cat([targets.boxes, targets.boxes.new_zeros(len(targets), 1, 4)], dim=1)
    real = torch.cat([targets.objects, targets.objects.new_zeros(len(targets), 1)], dim=1)
    overlap, index = (box_iou(objects, priors.boxes) * real.unsqueeze(2)).max(dim=1)
    return of(index.where(overlap > 0.1, -1))


def of(index: Tensor) -> Assignment:
    return Assignment(index, (index >= 0).to(torch.float32))


def test_one_s_own_passes() -> None:
    check_assigner(overlapping, scenes=4)


def test_the_reference_is_compared() -> None:
    reference = MaxIoUAssigner(0.5, 0.5, low_quality="none", ignore_threshold=None)
    assigner = MaxIoUAssigner(0.5, 0.5, low_quality="none", ignore_threshold=None)
    check_assigner(assigner, reference=reference, scenes=4, compile=False)
    with pytest.raises(AssertionError, match=r"MaxIoUAssigner \(random_scene\(.*differs from the reference"):
        check_assigner(MaxIoUAssigner(0.7), reference=reference, scenes=8, compile=False)


def waiting(priors: Priors, targets: Targets, predictions: Predictions) -> Assignment:
    return overlapping(priors, targets) if targets.crowd.any() else overlapping(priors, targets, predictions)


def changing(priors: Priors, targets: Targets, predictions: Predictions) -> Assignment:
    targets.labels.add_(1)
    return overlapping(priors, targets)


FAULTS: dict[str, Callable[[Priors, Targets, Predictions], Any]] = {
    "returns Tensor instead of an Assignment": lambda p, t, _: overlapping(p, t).gt_index,
    "returns NoneType instead of an Assignment": lambda p, t, _: None,
    "shape": lambda p, t, _: of(overlapping(p, t).gt_index[:, 1:]),
    "float32": lambda p, t, _: Assignment(overlapping(p, t).gt_index, overlapping(p, t).score.double()),
    "out of range": lambda p, t, _: of(overlapping(p, t).gt_index - 2),
    "negative or not finite": lambda p, t, _: Assignment(overlapping(p, t).gt_index, -overlapping(p, t).score),
    "without an object has a score": lambda p, t, _: Assignment(
        overlapping(p, t).gt_index, overlapping(p, t).score + 1
    ),
    "padding or with a crowd": lambda p, t, _: overlapping(
        p, Targets(t.boxes, t.labels, t.valid, torch.zeros_like(t.crowd))
    ),
    "in place": changing,
    "two answers": lambda p, t, _: of(overlapping(p, t).gt_index.where(torch.rand(len(p)) < 0.5, -1)),
    "shows padding": lambda p, t, _: of(overlapping(p, t).gt_index.clamp(max=7 - t.valid.shape[1])),
    "order of images": lambda p, t, _: of(overlapping(p, t).gt_index.where(torch.arange(len(t))[:, None] > 0, -1)),
    "float64 differently": lambda p, t, _: of(overlapping(p, t).gt_index.clamp(max=-int(t.boxes.element_size() > 4))),
    "bfloat16 differently": lambda p, t, x: of(overlapping(p, t).gt_index.clamp(max=-int(x.logits.element_size() < 4))),
    "depends on the other images": lambda p, t, _: Assignment(
        overlapping(p, t).gt_index, overlapping(p, t).score / overlapping(p, t).score.sum().clamp(min=1)
    ),
    r"images, \d+ priors and 0 objects raise IndexError": lambda p, t, _: (
        overlapping(p, t) if t.labels.numel() else of(t.labels.max(dim=1)[1])
    ),
    "a score is above 1": lambda p, t, _: Assignment(overlapping(p, t).gt_index, overlapping(p, t).score * 2),
    "a score carries a gradient": lambda p, t, x: Assignment(
        overlapping(p, t).gt_index, overlapping(p, t).score * x.logits.float().sigmoid().amax(dim=-1)
    ),
    "matches nothing": lambda p, t, _: of(overlapping(p, t).gt_index.clamp(max=-1)),
    "waits for the device": waiting,
    "order of objects": lambda p, t, _: of(overlapping(p, t).gt_index.masked_fill(overlapping(p, t).gt_index > 0, -1)),
}


@pytest.mark.parametrize("complaint", FAULTS)
def test_each_fault_is_named(complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_assigner(FAULTS[complaint], scenes=60, order=complaint.startswith("order"), compile=False)


@pytest.mark.parametrize("complaint", ["but without predictions it raises AttributeError: ", "but it looks at them"])
def test_what_says_that_it_needs_no_predictions_gets_none(complaint: str) -> None:
    def liar(priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        seen = predictions is not None if "looks" in complaint else predictions.logits.numel()  # type: ignore[union-attr]
        return of(overlapping(priors, targets).gt_index.clamp(max=0 if seen else -1))

    liar.needs_predictions = False  # type: ignore[attr-defined]
    with pytest.raises(AssertionError, match=f"liar .*needs_predictions is False, {complaint}"):
        check_assigner(liar, compile=False, order=False)


def test_scores_that_hang_on_the_other_images_show_where_objects_fit() -> None:
    def batched(priors: Priors, targets: Targets, predictions: Predictions) -> Assignment:
        index = overlapping(priors, targets).gt_index
        share = (index >= 0).float().mean()
        return Assignment(index, torch.where(index >= 0, share, 0.0))

    with pytest.raises(AssertionError, match=r"nearly fill a prior each\): depends on the other images: scores"):
        check_assigner(batched, scenes=0, compile=False)


def test_regions_to_ignore_are_tried_where_priors_lie() -> None:
    def forgetful(priors: Priors, targets: Targets, predictions: Predictions) -> Assignment:
        everything = Targets(targets.boxes, targets.labels, targets.valid, torch.zeros_like(targets.crowd))
        return overlapping(priors, everything)

    with pytest.raises(AssertionError, match=r"regions to ignore on priors\): a prior is matched with padding or with"):
        check_assigner(forgetful, scenes=0, compile=False)


def test_a_class_is_told_from_its_object() -> None:
    with pytest.raises(ValueError, match=r"pass an object, MaxIoUAssigner\(\), instead of the class"):
        check_assigner(MaxIoUAssigner)


def test_a_graph_break_is_named() -> None:
    with pytest.raises(AssertionError, match="does not compile in one graph"):
        check_assigner(waiting, scenes=0, seed=2, waits=True)
