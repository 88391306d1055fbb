"""ATSSAssigner against the golden cases of mmdetection, NanoDet, the original and PaddleDetection."""

from dataclasses import replace

import pytest
import torch

from boxwright.assigners import ATSSAssigner, FCOSAssigner, MaxIoUAssigner
from boxwright.boxes import DeltaCoder, DistanceCoder, aligned_iou
from boxwright.structures import Level, Predictions, Priors, Targets
from goldens import Case, golden_cases, golden_forms, load_case, positive_boxes

LAST_PIXEL = torch.tensor([0.0, 0.0, 1.0, 1.0])  # the original ends a box at its last pixel, not after it
CASES = golden_cases("assigners/atss")
FILES = pytest.mark.parametrize("file", CASES)


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


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-5)


@FILES
def test_mmdet_and_nanodet(file):
    case = load_case(file)
    priors, targets = scene(case)
    assignment, rows = ATSSAssigner(case.param("topk"))(priors, targets), exact(case)
    for name in ("mmdet", "nanodet"):
        assert torch.equal(assignment.gt_index[rows], case[f"out_{name}_gt_inds"][rows] - 1)
    assert torch.equal(assignment.labels(targets)[rows], case["out_mmdet_labels"][rows])
    overlap = aligned_iou(priors.boxes, assignment.boxes(targets))  # theirs is -1e8 at background
    positive = assignment.positive & rows[:, None]
    torch.testing.assert_close(overlap[positive], case["out_mmdet_max_overlaps"][positive], atol=1e-5, rtol=0)


@FILES
def test_original(file):
    case = load_case(file)
    priors, targets = scene(case)
    assignment = ATSSAssigner.original(case.param("topk"))(priors, targets)
    rows = exact(case) & (case["in_gt_num"] > 0)  # the original stops at an image without objects
    assert torch.equal(assignment.labels(targets)[rows] + 1, case["out_orig_labels"][rows])
    assert torch.equal(positive_boxes(assignment, targets)[rows], case["out_orig_matched_boxes"][rows])
    if "out_orig_reg_targets_box" not in case:
        return  # several anchors per cell
    boxes, positive = assignment.boxes(targets), assignment.positive & rows[:, None]
    anchors = replace(priors, boxes=priors.boxes + LAST_PIXEL)
    deltas = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2)).encode(anchors, boxes + LAST_PIXEL)
    close(deltas[positive], case["out_orig_reg_targets_box"][positive])
    side = anchors.boxes[:, 2] - anchors.boxes[:, 0]  # its unit of distance is the anchor's side over that in strides
    units = replace(priors, strides=side * case["in_strides"][0] / case.param("anchor_size0"))
    close(DistanceCoder().encode(units, boxes)[positive], case["out_orig_reg_targets_point"][positive])


# PaddleDetection fails on a level smaller than topk
@pytest.mark.parametrize(
    ("file", "form"), golden_forms(CASES, ("paddle", "paddle_force", "paddle_sm"), "out_{}_labels")
)
def test_paddle(file, form):
    case = load_case(file)
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
    assert torch.equal(positive_boxes(assignment, targets)[rows], expected)
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
    assignment = MaxIoUAssigner(0.5, 0.4, plus_one=True, keep_argmax=True, margin=0.01)(priors, targets)
    rows = case["in_gt_num"] > 0
    labels = torch.where(assignment.ignored, -1, assignment.labels(targets) + 1)
    assert torch.equal(labels[rows], case["out_orig_iou_labels"][rows])
    positive = assignment.positive & rows[:, None]
    assert torch.equal(assignment.boxes(targets)[positive], case["out_orig_iou_matched_boxes"][positive])


@FILES
def test_original_scale_ranges(file):
    """POSITIVE_TYPE SSC of the original is the rule of FCOS."""
    case = load_case(file)
    priors, targets = scene(case)
    assignment = FCOSAssigner(plus_one=True)(priors, targets)
    rows = case["in_gt_num"] > 0
    assert torch.equal(assignment.labels(targets)[rows] + 1, case["out_orig_ssc_labels"][rows])
    assert torch.equal(positive_boxes(assignment, targets)[rows], case["out_orig_ssc_matched_boxes"][rows])


def test_refuses_cells_of_no_level():
    with pytest.raises(ValueError, match="topk_per_prior=True counts cells of a level"):
        ATSSAssigner(adaptive=False, topk_per_prior=True)


@FILES
def test_original_without_threshold(file):
    """POSITIVE_TYPE TOPK of the original."""
    case = load_case(file)
    priors, targets = scene(case)
    assignment = ATSSAssigner.original(case.param("topk"), adaptive=False)(priors, targets)
    rows = case["in_gt_num"] > 0
    assert torch.equal(assignment.labels(targets)[rows] + 1, case["out_orig_topk_labels"][rows])
    assert torch.equal(positive_boxes(assignment, targets)[rows], case["out_orig_topk_matched_boxes"][rows])


def test_thresholds_and_margins_that_are_just_met():
    boxes = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8]])
    priors = Priors(boxes, torch.tensor([[4.0, 4], [12, 4]]), torch.full((2,), 8.0))
    targets = Targets.from_list([{"boxes": torch.tensor([[0.0, 0, 16, 8]]), "labels": torch.tensor([0])}])
    for options, positive in (({}, True), ({"strict": True}, False), ({"margin": 3.9}, True), ({"margin": 4.0}, False)):
        assert ATSSAssigner(**options)(priors, targets).positive.tolist() == [[positive] * 2]
