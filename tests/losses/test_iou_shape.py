"""EIoU, MPDIoU, bounded IoU and SIoU: golden data and equal boxes; the papers' formulas are in `test_definitions`."""

from pathlib import Path

import pytest
import torch

from boxwright.losses import bounded_iou_loss, eiou_loss, mpdiou_loss, siou_loss
from goldens import golden_cases, load_case


@pytest.mark.parametrize("loss", [eiou_loss, siou_loss, mpdiou_loss])
def test_equal_boxes_cost_nothing_and_stay(loss: object) -> None:
    boxes = torch.tensor([[3.0, 4.0, 10.0, 20.0]], requires_grad=True)
    value = loss(boxes, boxes.detach().clone())
    value.sum().backward()
    torch.testing.assert_close(value, torch.zeros(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(boxes.grad, torch.zeros(1, 4), atol=1e-6, rtol=0)


def test_bounded_iou_of_boxes_that_are_both_inverted_by_eps_is_finite() -> None:
    boxes = torch.tensor([[0.0, 0.0, -1e-3, -1e-3]], requires_grad=True)
    value = bounded_iou_loss(boxes, boxes.detach().clone(), eps=1e-3)
    assert value.isfinite().all()
    assert torch.autograd.grad(value.sum(), boxes)[0].isfinite().all()


@pytest.mark.parametrize("file", golden_cases("losses/bounded_iou"))
def test_bounded_iou_matches_mmdetection(file: Path) -> None:
    case = load_case(file)
    pred, target = case["in_pred"].requires_grad_(), case["in_target"]
    hyper = {"beta": case.param("beta"), "eps": case.param("eps")}
    loss = bounded_iou_loss(pred, target, **hyper)
    torch.testing.assert_close(loss, case["out_loss_none"], rtol=1e-7, atol=1e-7)
    loss.sum().backward()
    smooth = case["out_grad_is_smooth"]
    torch.testing.assert_close(pred.grad[smooth], case["grad_pred_of_sum"][smooth], rtol=1e-7, atol=1e-7)
    mean = bounded_iou_loss(pred, target, reduction="mean", **hyper)
    torch.testing.assert_close(mean, case["out_loss_mean"], rtol=1e-7, atol=1e-7)
    average = bounded_iou_loss(
        pred, target, weight=case["in_weight"], reduction="mean", normalizer=case.param("avg_factor"), **hyper
    )
    torch.testing.assert_close(average, case["out_loss_weighted_avg_factor"], rtol=1e-6, atol=1e-7)
