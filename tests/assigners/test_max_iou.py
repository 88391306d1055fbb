"""MaxIoUAssigner against the golden cases, and its own promises."""

import pytest
import torch

from boxwright.assigners import MaxIoUAssigner
from boxwright.boxes import DeltaCoder, box_iou
from boxwright.structures import Level, Priors, Targets
from goldens import golden_cases, golden_forms, load_case

FORMS = {
    "retina": MaxIoUAssigner(),
    "rpn": MaxIoUAssigner(0.7, 0.3, min_positive_iou=0.3),
    "rcnn": MaxIoUAssigner(0.5, 0.5, min_positive_iou=0.5, low_quality="none"),
    "rpn_noall": MaxIoUAssigner(0.7, 0.3, min_positive_iou=0.3, low_quality="first"),
    "negtuple": MaxIoUAssigner(0.5, 0.5, negative_floor=0.1, low_quality="none"),
    "ignore": MaxIoUAssigner(),
    "ignore_gtwrt": MaxIoUAssigner(ignore_of="crowd"),
}


@pytest.mark.parametrize(("file", "form"), golden_forms(golden_cases("assigners/max_iou"), FORMS, "out_{}_gt_inds"))
def test_golden(file, form):
    case = load_case(file)
    regions = case["in_gt_ignore"] if form.startswith("ignore") else case["in_gt_ignore"][:0]
    boxes = torch.cat([case["in_gt_boxes"], regions])
    crowd = torch.arange(len(boxes)) >= len(case["in_gt_boxes"])
    labels = torch.cat([case["in_gt_labels"], torch.zeros(len(regions), dtype=torch.int64)])
    targets = Targets.from_list([{"boxes": boxes, "labels": labels, "iscrowd": crowd}])
    priors = Priors(case["in_boxes"], case["in_boxes"][:, :2], torch.ones(len(case["in_boxes"])))
    assignment = FORMS[form](priors, targets)
    assert torch.equal(assignment.gt_index[0], case[f"out_{form}_gt_inds"] - 1)  # theirs: -1 ignored, 0 background
    positive = case[f"out_{form}_gt_inds"] > 0
    assert torch.equal(assignment.labels(targets)[0][positive], case[f"out_{form}_labels"][positive])
    if form == "retina" and len(boxes):  # a prior's best overlap, whoever it is matched with in the end
        best = box_iou(priors.boxes, boxes).amax(1)
        torch.testing.assert_close(best, case["out_max_overlaps"], atol=1e-5, rtol=0)


@pytest.mark.parametrize("file", golden_cases("assigners/aploss_targets"))
def test_aploss_golden(file):
    case = load_case(file)
    rows = case["in_annotations"]
    targets = Targets(
        rows[..., :4].double(),
        rows[..., 4].long().clamp(min=0),
        rows[..., 4] != -1,
        torch.zeros_like(rows[..., 4]).bool(),
    )
    anchors = case["in_anchors"]
    priors = Priors(anchors, (anchors[:, :2] + anchors[:, 2:]) / 2, torch.ones(len(anchors)))
    assignment = MaxIoUAssigner(0.5, 0.4, plus_one=True, keep_argmax=True)(priors, targets)
    positive = case["out_positive_mask"]
    assert torch.equal(assignment.positive, positive)
    assert torch.equal(assignment.gt_index[positive], case["out_gt_index"][positive])
    labels = assignment.labels(targets)
    dense = torch.nn.functional.one_hot(labels.clamp(min=0), case.param("num_classes")) * positive[..., None]
    assert torch.equal(torch.where(assignment.ignored[..., None], -1, dense).to(torch.int8), case["out_labels"])
    assert assignment.positive.sum().clamp(min=1) == case["out_p_num"]
    # its boxes end at their last pixel, and it has nothing narrower than one
    last_pixel = torch.tensor([0.0, 0.0, 1.0, 1.0])
    grid = Priors(anchors + last_pixel, priors.centers + 0.5, priors.strides)
    deltas = DeltaCoder(stds=(0.1, 0.1, 0.2, 0.2)).encode(grid, assignment.boxes(targets) + last_pixel).float()
    torch.testing.assert_close(deltas[positive], case["out_reg_targets"][positive], atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("low_quality", ["all", "first"])
def test_objects_claim_from_exactly_the_least_overlap(low_quality):
    boxes = torch.tensor([[0.0, 0, 10, 5]])
    priors, targets = (
        Priors(boxes, boxes[:, :2], torch.ones(1)),
        Targets.from_list([{"boxes": torch.tensor([[0.0, 0, 10, 10]]), "labels": torch.tensor([0])}]),
    )
    for least, expected in ((0.5, 0), (0.51, -2)):
        assigner = MaxIoUAssigner(0.7, 0.3, min_positive_iou=least, low_quality=low_quality)
        assert assigner(priors, targets).gt_index.tolist() == [[expected]]


@pytest.mark.parametrize("levels", [(), (Level(1, 2, 1, 40.0),)], ids=["search", "grid"])
@pytest.mark.parametrize(
    ("options", "region", "expected"),
    [
        ({}, [10, 0, 60, 20], [-1, -2]),  # half of the first prior, all of the second
        ({}, [9, 0, 60, 20], [-2, -2]),
        ({"plus_one": True}, [11, 0, 30, 20], [-1, -1]),  # ten columns of pixels of 21, or eleven
        ({"plus_one": True}, [10, 0, 30, 20], [-2, -1]),
        ({"ignore_of": "crowd"}, [-4, 0, 4, 20], [-1, -1]),  # half of the region lies in the first prior
        ({"ignore_of": "crowd"}, [-3, 0, 4, 20], [-2, -1]),
        ({"ignore_of": "crowd"}, [-3, 0, 60, 20], [-1, -1]),
        ({"ignore_of": "crowd", "plus_one": True}, [-4, 0, 4, 20], [-2, -1]),  # five columns of nine
        ({"ignore_of": "crowd", "plus_one": True}, [-4, 0, 3, 20], [-1, -1]),
    ],
)
def test_what_a_region_covers(options, region, expected, levels):
    boxes = torch.tensor([[0.0, 0, 20, 20], [40, 0, 60, 20]])
    regions = torch.tensor([region, [200, 200, 300, 300]], dtype=torch.float32)
    targets = Targets.from_list([{"boxes": regions, "labels": torch.tensor([0, 0]), "iscrowd": torch.tensor([1, 1])}])
    priors = Priors(boxes, boxes[:, :2] + 10, torch.full((2,), 40.0), levels)
    assert MaxIoUAssigner(**options)(priors, targets).gt_index.tolist() == [expected]
