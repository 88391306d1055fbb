"""SimOTAAssigner and DynamicSoftLabelAssigner against the golden cases of YOLOX, mmdetection and NanoDet-Plus."""

from dataclasses import replace

import pytest
import torch

from assignment_scenes import make_predictions, make_priors, make_targets
from boxwright.assigners import DynamicSoftLabelAssigner, SimOTAAssigner
from boxwright.assigners.dynamic_k import prices
from boxwright.boxes import PointGenerator
from boxwright.structures import Predictions, Priors, Targets
from goldens import golden_cases, load_case

FORMS = {
    "yolox": SimOTAAssigner(),
    "mmdet_simota": SimOTAAssigner.mmdet(),
    "mmdet_simota_b": SimOTAAssigner.mmdet(topk=5, center_radius=1.5, class_weight=1.5, iou_weight=2.0),
    "rtmdet": DynamicSoftLabelAssigner(),
    "nanodet": DynamicSoftLabelAssigner(center_radius=None),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("file", golden_cases("assigners/simota"))
def test_golden(file, form):
    case = load_case(file)
    centers, strides = case["in_priors"][:, :2], case["in_priors"][:, 2]
    half = strides[:, None] / 2
    priors = Priors(torch.cat([centers - half, centers + half], dim=1), centers, strides)
    targets = Targets.from_list([{"boxes": case["in_gt_boxes"], "labels": case["in_gt_labels"]}])
    predictions = Predictions(
        case["in_cls_logits"][None],
        torch.empty(0),
        {"objectness": case["in_obj_logits"][None]},
        case["in_pred_boxes"][None],
    )
    assigner = FORMS[form]
    assignment = assigner(priors, targets, predictions)
    expected = case[f"out_{form}_gt_inds"]
    tied = case[f"out_{form}_tied_gt"].nonzero().flatten()
    clear = ~torch.isin(expected - 1, tied) & ~torch.isin(assignment.gt_index[0], tied)
    assert clear.float().mean() > 0.5
    assert torch.equal(assignment.gt_index[0][clear], expected[clear] - 1)
    name = f"out_{form}_matched_iou" if form == "yolox" else f"out_{form}_max_overlaps"
    positive = clear & (expected > 0)
    torch.testing.assert_close(assignment.score[0][positive], case[name][positive], atol=1e-5, rtol=0)
    if form == "yolox" and not len(tied):
        assert torch.equal(assignment.positive[0], case["out_yolox_fg_mask"])
        assert assignment.positive.sum() == case["out_yolox_num_fg"]
    if f"out_{form}_labels" in case:
        assert torch.equal(assignment.labels(targets)[0][positive], case[f"out_{form}_labels"][positive])

    if f"out_{form}_cost" not in case:
        return
    cost, iou = (t[0] for t in prices(assigner, priors, targets, predictions))  # (G, L)
    candidate = cost.isfinite().all(0)
    torch.testing.assert_close(iou[:, candidate], case[f"out_{form}_pair_iou"], atol=1e-5, rtol=0)
    torch.testing.assert_close(cost[:, candidate], case[f"out_{form}_cost"], atol=2e-4, rtol=1e-5)
    most = iou[:, candidate].topk(min(assigner.topk, int(candidate.sum()))).values
    assert torch.equal(most.sum(1).int().clamp(min=1), case[f"out_{form}_dynamic_k"])


def random_scene() -> tuple[Priors, Targets, Predictions]:
    priors = make_priors()
    targets = make_targets(0, 2, 5, hostile=False, crowd=False)
    return priors, targets, make_predictions(0, priors, 2, hostile=False)


@pytest.mark.parametrize("logit", [-1e4, 1e4])
@pytest.mark.parametrize("assigner", [SimOTAAssigner(penalty=1e3), SimOTAAssigner(penalty=1e3, root=False)])
def test_classes_that_are_all_alike_decide_nothing(assigner, logit):
    """Not even where their probabilities are 0 or 1, whose logarithms have no end."""
    priors, targets, predictions = random_scene()
    even, extreme = (
        replace(predictions, logits=torch.full_like(predictions.logits, value), extras={}) for value in (0.0, logit)
    )
    found = assigner(priors, targets, extreme)
    assert found.positive.any()
    assert torch.equal(found.gt_index, assigner(priors, targets, even).gt_index)


def test_a_head_without_objectness_is_certain_of_objects():
    priors, targets, predictions = random_scene()
    certain = replace(predictions, extras={"objectness": torch.full(predictions.logits.shape[:2], 1e3)})
    without = SimOTAAssigner()(priors, targets, replace(predictions, extras={}))
    assert torch.equal(without.gt_index, SimOTAAssigner()(priors, targets, certain).gt_index)
    assert not torch.equal(without.gt_index, SimOTAAssigner()(priors, targets, predictions).gt_index)


def test_priors_in_a_region_to_ignore_do_not_use_up_an_object():
    """A crowd covers all priors near the object's centre; it takes some of the others, which are inside."""
    priors = PointGenerator((8.0,))([(8, 8)])
    boxes = torch.tensor([[10.0, 10, 54, 54], [16, 16, 48, 48]])
    targets = Targets.from_list([{"boxes": boxes, "labels": torch.tensor([0, 0]), "iscrowd": torch.tensor([0, 1])}])
    predictions = Predictions(torch.zeros(1, 64, 1), torch.empty(0), boxes=boxes[0].expand(1, 64, 4))
    found = SimOTAAssigner.mmdet()(priors, targets, predictions)
    assert found.ignored.sum() == 16
    assert found.positive.sum() == 10
