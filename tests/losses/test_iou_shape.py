"""EIoU, MPDIoU, bounded IoU and SIoU: golden data where there is some, else the papers' formulas written out."""

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boxwright.boxes import aligned_iou
from boxwright.losses import bounded_iou_loss, eiou_loss, mpdiou_loss, siou_loss
from goldens import golden_cases, load_case


@pytest.fixture
def pair() -> tuple[Tensor, Tensor]:
    corner = torch.rand(2, 50, 2, dtype=torch.float64) * 30
    boxes = torch.cat([corner, corner + 1 + torch.rand(2, 50, 2, dtype=torch.float64) * 40], dim=-1)
    return boxes[0], boxes[1]


def quantities(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Centre differences, both sizes and hull extents, each (n, 2), the slow way."""
    low, high = torch.minimum(a[:, :2], b[:, :2]), torch.maximum(a[:, 2:], b[:, 2:])
    centers = (a[:, :2] + a[:, 2:]) / 2 - (b[:, :2] + b[:, 2:]) / 2
    return centers, a[:, 2:] - a[:, :2], b[:, 2:] - b[:, :2], high - low


def test_eiou_is_the_papers_formula(pair: tuple[Tensor, Tensor]) -> None:
    centers, size, target, hull = quantities(*pair)
    expected = 1 - aligned_iou(*pair) + (centers**2).sum(1) / (hull**2).sum(1) + ((size - target) ** 2 / hull**2).sum(1)
    torch.testing.assert_close(eiou_loss(*pair), expected, rtol=1e-6, atol=1e-6)


def test_siou_is_the_papers_formula(pair: tuple[Tensor, Tensor]) -> None:
    centers, size, target, hull = quantities(*pair)
    sine = centers[:, 1].abs() / centers.norm(dim=1)
    angle = 1 - 2 * torch.sin(torch.arcsin(sine) - math.pi / 4) ** 2
    distance = (1 - torch.exp(-(2 - angle)[:, None] * (centers / hull) ** 2)).sum(1)
    shape = ((1 - torch.exp(-(size - target).abs() / torch.maximum(size, target))) ** 4).sum(1)
    expected = 1 - aligned_iou(*pair) + (distance + shape) / 2
    torch.testing.assert_close(siou_loss(*pair), expected, rtol=1e-6, atol=1e-6)


def test_mpdiou_is_the_papers_formula(pair: tuple[Tensor, Tensor]) -> None:
    corners = ((pair[0] - pair[1]) ** 2).sum(1)
    expected = 1 - aligned_iou(*pair) + corners / (100**2 + 80**2)
    torch.testing.assert_close(mpdiou_loss(*pair, image_size=(80, 100)), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("loss", [eiou_loss, siou_loss, mpdiou_loss])
def test_equal_boxes_cost_nothing_and_stay(loss: object) -> None:
    boxes = torch.tensor([[3.0, 4.0, 10.0, 20.0]], requires_grad=True)
    value = loss(boxes, boxes.detach().clone())
    value.sum().backward()
    torch.testing.assert_close(value, torch.zeros(1), atol=1e-6, rtol=0)
    torch.testing.assert_close(boxes.grad, torch.zeros(1, 4), atol=1e-6, rtol=0)


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
