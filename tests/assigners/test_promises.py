"""What every assigner promises, on random scenes with hostile boxes, and against dense references."""

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dense_assigners
from assigner_forms import ASSIGNERS, ORDERED, WAITING, answers
from assignment_scenes import make_predictions, make_priors, make_targets, scenes
from boxwright.assigners import DynamicSoftLabelAssigner, SimOTAAssigner, TaskAlignedAssigner
from boxwright.boxes import PointGenerator
from boxwright.structures import Level, Priors, Targets
from boxwright.testing import check_assigner, check_never_waits


@pytest.mark.parametrize("name", ASSIGNERS)
@settings(max_examples=5)
@given(seed=st.integers(0, 10**6))
def test_promises(name, seed):
    check_assigner(ASSIGNERS[name], scenes=2, order=name not in ORDERED, waits=True, compile=False, seed=seed)


@pytest.mark.parametrize("crowd", [False, True])
@pytest.mark.parametrize("name", sorted(ASSIGNERS.keys() - WAITING))
def test_never_waits(name, crowd):
    """For a GPU, though there is none."""
    priors = make_priors(3)
    targets = replace(make_targets(0, 2, 5, hostile=False, crowd=crowd), has_crowd=crowd)
    check_never_waits(ASSIGNERS[name], priors, targets, make_predictions(0, priors, 2, hostile=False))


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(ASSIGNERS.keys() - WAITING))
def test_compiles_in_one_graph(name):
    check_assigner(ASSIGNERS[name], scenes=0, order=name not in ORDERED, seed=2)


@pytest.mark.parametrize("name", ["atss", "tood", "ssd", "ratio grid"])
@settings(max_examples=12)
@given(scene=scenes(crowd=False))
def test_only_regions_make_these_ignore(name, scene):
    assert not ASSIGNERS[name](*scene).ignored.any()


@pytest.mark.parametrize("name", ["max_iou", "atss", "fcos", "tood"])
@settings(max_examples=40)
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


FORMS = {
    "max_iou rpn first": ("max_iou", {"positive": 0.7, "negative": 0.3, "least": 0.3, "low_quality": "first"}),
    "max_iou rcnn": ("max_iou", {"positive": 0.5, "negative": 0.5, "low_quality": "none"}),
    "max_iou floor": ("max_iou", {"positive": 0.35, "negative": 0.2, "floor": 0.05, "least": 0.1}),
    "max_iou ap-loss": ("max_iou", {"keep_argmax": True, "offset": 1.0}),
    "max_iou inside": ("max_iou", {"keep_argmax": True, "offset": 1.0, "margin": 0.01}),
    "atss few": ("atss", {"topk": 2}),
    "atss topk": ("topk_iou", {"topk": 4}),
    "atss original": ("atss", {"per_prior": True, "offset": 1.0}),
    "atss paddle": ("atss", {"paddle": True, "force": True}),
}


@pytest.mark.parametrize("form", FORMS)
@settings(max_examples=20)
@given(scene=scenes(crowd=False))
def test_forms_equal_dense_on_hostile_scenes(form, scene):
    name, options = FORMS[form]
    expected = dense_assigners.per_image(name, scene.priors, scene.targets, **options)
    assert torch.equal(ASSIGNERS[form](*scene).gt_index, expected.gt_index)


DYNAMIC = {
    "simota": (SimOTAAssigner(), "simota", {}),
    "simota mmdet": (SimOTAAssigner.mmdet(), "simota", {"mmdet": True, "radius": 2.5}),
    "simota mmdet other": (
        SimOTAAssigner.mmdet(3, 1.0, 1.5, 2.0),
        "simota",
        {"mmdet": True, "topk": 3, "radius": 1.0, "weights": (1.5, 2.0)},
    ),
    "rtmdet": (DynamicSoftLabelAssigner(), "dynamic_soft_label", {}),
    "rtmdet other": (
        DynamicSoftLabelAssigner(4, center_radius=1.5),
        "dynamic_soft_label",
        {"topk": 4, "radius": 1.5},
    ),
    "nanodet": (DynamicSoftLabelAssigner(center_radius=None), "dynamic_soft_label", {"radius": None}),
}


@pytest.mark.parametrize("form", DYNAMIC)
@settings(max_examples=30)
@given(scene=scenes(hostile=False, crowd=False))
def test_dynamic_k_equals_dense(form, scene):
    assigner, dense, options = DYNAMIC[form]
    expected = dense_assigners.per_image(dense, *scene, **options)
    assert torch.equal(assigner(*scene).gt_index, expected.gt_index)


ALIGNED = {
    "paddle": (TaskAlignedAssigner.paddle(), {}),
    "paddle other": (TaskAlignedAssigner.paddle(5, 0.5, 4.0), {"topk": 5, "alpha": 0.5, "beta": 4.0}),
    "ultralytics": (TaskAlignedAssigner.ultralytics(), {"topk": 10, "alpha": 0.5, "stride": 16}),
    "ultralytics final": (
        TaskAlignedAssigner.ultralytics(6, 1.0, 2.5, final_topk=2),
        {"topk": 6, "beta": 2.5, "stride": 16, "final_topk": 2},
    ),
}


@pytest.mark.parametrize("form", ALIGNED)
@settings(max_examples=30)
@given(scene=scenes(hostile=False, crowd=False))
def test_alignment_inside_equals_dense(form, scene):
    assigner, options = ALIGNED[form]
    expected, found = dense_assigners.per_image("task_aligned_inside", *scene, **options), assigner(*scene)
    assert torch.equal(found.gt_index, expected.gt_index)
    torch.testing.assert_close(found.score, expected.score, atol=1e-5, rtol=1e-4)


@settings(max_examples=30)
@given(scene=scenes(hostile=False, crowd=False))
def test_dual_equals_dense(scene):
    """Both branches against every object's best priors inside it, by CIoU."""
    for branch, dense in zip(ASSIGNERS["dual"](*scene), ("dual_many", "dual_one"), strict=True):
        expected = dense_assigners.per_image(dense, *scene)
        assert torch.equal(branch.gt_index, expected.gt_index)
        torch.testing.assert_close(branch.score, expected.score, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ASSIGNERS)
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
    assert all(answer.ignored.all() for answer in answers(ASSIGNERS[name](priors, covering, predictions)))
    if hasattr(ASSIGNERS[name], "ignore_threshold"):
        never = replace(ASSIGNERS[name], ignore_threshold=None)
        assert all(answer.positive.any() for answer in answers(never(priors, targets, predictions)))


@pytest.mark.parametrize("name", [name for name in ASSIGNERS if hasattr(ASSIGNERS[name], "ignore_threshold")])
def test_priors_mostly_in_a_region_are_ignored(name):
    """Of two cells the second lies in the region by 60 %, the first by 40."""
    priors = PointGenerator((20,))([(1, 2)])
    region = {"boxes": torch.tensor([[12.0, 0, 32, 20]]), "labels": torch.tensor([0]), "iscrowd": torch.tensor([1])}
    scene = priors, Targets.from_list([region]), make_predictions(0, priors, 1, hostile=False)
    for threshold, expected in ((0.5, [-1, -2]), (0.3, [-2, -2]), (0.7, [-1, -1])):
        assigner = replace(ASSIGNERS[name], ignore_threshold=threshold)
        assert all(answer.gt_index.tolist() == [expected] for answer in answers(assigner(*scene)))
    assert all(answer.gt_index.tolist() == [[-1, -2]] for answer in answers(ASSIGNERS[name](*scene)))


@pytest.mark.parametrize("levels", [(), (Level(1, 2, 1, 6.0),)], ids=["search", "grid"])
@pytest.mark.parametrize("name", ["max_iou", "max_iou rpn first", "max_iou floor", "ssd"])
def test_an_object_whose_best_prior_lies_in_a_region_claims_the_next(name, levels):
    """The next overlaps it too little to be matched otherwise."""
    boxes = torch.tensor([[10.0, 0, 20, 10], [0, 0, 14, 10]])
    targets = {"boxes": boxes, "labels": torch.tensor([0, 0]), "iscrowd": torch.tensor([0, 1])}
    anchors = torch.tensor([[8.0, 0, 18, 10], [15, 0, 25, 10]])
    priors = Priors(anchors, anchors[:, 2:] - 5, torch.full((2,), 6.0), levels)
    assigner = replace(ASSIGNERS[name], positive_iou=0.9)
    assert assigner(priors, Targets.from_list([targets])).gt_index.tolist() == [[-2, 0]]


@pytest.mark.parametrize("name", ASSIGNERS)
def test_more_objects_than_priors(name):
    priors = make_priors(height=8, width=8)
    targets = make_targets(1, 2, 40, hostile=True, crowd=True)
    for assignment in answers(ASSIGNERS[name](priors, targets, make_predictions(1, priors, 2, hostile=True))):
        assert assignment.gt_index.shape == (2, 3)
