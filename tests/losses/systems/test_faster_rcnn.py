"""Faster R-CNN's four-part loss against Faster-RCNN_TF."""

from pathlib import Path

import pytest
import torch

from boxwright.losses.systems import StageOutput, faster_rcnn_loss
from goldens import golden_cases, load_case

TENSORFLOW = {"rtol": 2e-5, "atol": 2e-5}


@pytest.mark.parametrize("file", golden_cases("losses/faster_rcnn_total"))
def test_the_four_parts_match(file: Path) -> None:
    case = load_case(file)
    names = ("rpn_cls_score", "rpn_bbox_pred", "cls_score", "bbox_pred")
    predictions = [case[f"in_{name}"].requires_grad_() for name in names]
    rpn_boxes = [
        case[f"in_rpn_bbox_{name}"].permute(0, 2, 3, 1) for name in ("targets", "inside_weights", "outside_weights")
    ]
    roi_boxes = [case[f"in_bbox_{name}"] for name in ("targets", "inside_weights", "outside_weights")]
    terms = faster_rcnn_loss(
        StageOutput(predictions[0], case["in_rpn_labels"].long().squeeze(1), predictions[1], *rpn_boxes),
        StageOutput(predictions[2], case["in_roi_labels"], predictions[3], *roi_boxes),
        proposal_sigma=case.param("rpn_sigma"),
        region_sigma=case.param("rcnn_sigma"),
    )
    expected = [case[f"out_{name}_loss"] for name in ("rpn_cls", "rpn_box", "rcnn_cls", "rcnn_box")]
    torch.testing.assert_close(list(terms.values()), expected, **TENSORFLOW)
    total = sum(terms.values())
    torch.testing.assert_close(total, case["out_total"], **TENSORFLOW)
    grads = torch.autograd.grad(total, predictions)
    for name, grad in zip(names, grads, strict=True):
        torch.testing.assert_close(grad, case[f"grad_{name}"], **TENSORFLOW)


def test_nothing_sampled_costs_nothing() -> None:
    rpn = StageOutput(torch.zeros(5, 2), torch.full((5,), -1), *[torch.zeros(1, 4)] * 4)
    roi = StageOutput(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64), *[torch.zeros(0, 12)] * 4)
    assert [term.item() for term in faster_rcnn_loss(rpn, roi).values()] == [0.0] * 4
