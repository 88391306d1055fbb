"""ATSSAssigner against the golden cases of mmdetection, NanoDet, the original and PaddleDetection."""

from dataclasses import replace

import pytest
import torch

from boxwright.assigners import ATSSAssigner, MaxIoUAssigner
from boxwright.assigners.grid import inside_margin
from boxwright.structures import Assignment, Level, Predictions, Priors, Targets
from goldens import Case, golden_cases, load_case

FILES = pytest.mark.parametrize("file", golden_cases("assigners/atss"))


def scene(case: Case) -> tuple[Priors, Targets]:
    anchors, per_cell = case["in_anchors"], int(case["in_anchors_per_loc"])
    centers = (anchors[:, :2] + anchors[:, 2:]) / 2
    levels, strides, start = [], [], 0
    for (height, width), stride in zip(case["in_feat_hw"].tolist(), case["in_strides"].tolist(), strict=True):
        levels.append(Level(height, width, per_cell, stride, float(centers[start, 0]) / stride))
        strides.append(torch.full((levels[-1].size,), float(stride)))
        start += levels[-1].size
    boxes = case["in_gt_boxes"]
    valid = torch.arange(boxes.shape[1]) < case["in_gt_num"][:, None]
    targets = Targets(boxes, case["in_gt_labels"], valid, torch.zeros_like(valid))
    return Priors(anchors, centers, torch.cat(strides), tuple(levels)), targets


def exact(case: Case) -> torch.Tensor:
    """Images in which the candidates do not hang on ties."""
    return (case["in_num_tied_levels"] == 0).all(1)


def boxes_or_zero(assignment: Assignment, targets: Targets) -> torch.Tensor:
    return assignment.boxes(targets) * assignment.positive[..., None]


@FILES
def test_mmdet_and_nanodet(file):
    case = load_case(file)
    priors, targets = scene(case)
    index = ATSSAssigner(case.param("topk"))(priors, targets).gt_index
    for name in ("mmdet", "nanodet"):
        assert torch.equal(index[exact(case)], case[f"out_{name}_gt_inds"][exact(case)] - 1)


@FILES
def test_original(file):
    case = load_case(file)
    priors, targets = scene(case)
    assignment = ATSSAssigner.original(case.param("topk"))(priors, targets)
    rows = exact(case) & (case["in_gt_num"] > 0)  # the original stops at an image without objects
    assert torch.equal(assignment.labels(targets)[rows] + 1, case["out_orig_labels"][rows])
    assert torch.equal(boxes_or_zero(assignment, targets)[rows], case["out_orig_matched_boxes"][rows])


@FILES
@pytest.mark.parametrize("form", ["paddle", "paddle_force", "paddle_sm"])
def test_paddle(file, form):
    case = load_case(file)
    if f"out_{form}_labels" not in case:
        pytest.skip("PaddleDetection fails on a level smaller than topk")
    priors, targets = scene(case)
    assigner = ATSSAssigner.paddle(case.param("topk"), force_match=form == "paddle_force", soft_scores=True)
    if form == "paddle_sm":
        assigner = replace(assigner, conflicts="selected")
    predictions = Predictions(torch.empty(0), torch.empty(0), boxes=case["in_pred_boxes"])
    assignment = assigner(priors, targets, predictions)
    rows, positive = exact(case), assignment.positive
    labels = torch.where(positive, assignment.labels(targets), case.param("num_classes"))
    assert torch.equal(labels[rows], case[f"out_{form}_labels"][rows])
    expected = (case[f"out_{form}_boxes"] * positive[..., None])[rows]  # theirs is meaningless at background
    assert torch.equal(boxes_or_zero(assignment, targets)[rows], expected)
    torch.testing.assert_close(assignment.score[rows], case[f"out_{form}_scores_iou"].amax(-1)[rows], atol=1e-5, rtol=0)
    if form == "paddle":
        weight = case["in_gt_scores"].gather(1, assignment.gt_index.clamp(min=0)) * positive
        assert torch.equal(weight[rows], case["out_paddle_scores_gt"].amax(-1)[rows])
        assert torch.equal(positive.float()[rows], case["out_paddle_scores_onehot"].amax(-1)[rows])


@FILES
def test_original_iou_form(file):
    """POSITIVE_TYPE IoU of the original is the max-IoU matcher with +1 sides, minus centres outside the object."""
    case = load_case(file)
    priors, targets = scene(case)
    assignment = MaxIoUAssigner(0.5, 0.4, plus_one=True, keep_argmax=True)(priors, targets)
    margin = inside_margin(assignment.boxes(targets), priors.centers)
    labels = assignment.labels(targets) + 1
    labels = torch.where(assignment.positive & (margin <= 0.01) | assignment.ignored, -1, labels)
    rows = case["in_gt_num"] > 0
    assert torch.equal(labels[rows], case["out_orig_iou_labels"][rows])
