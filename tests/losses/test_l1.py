"""L1, smooth L1, its sigma form and balanced L1 against golden data."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from boxwright.losses import balanced_l1_loss, l1_loss, sigma_smooth_l1_loss, smooth_l1_loss
from boxwright.losses.reduction import Reduction, reduce
from goldens import Case, golden_cases, load_case


def check_elementwise(case: Case, loss: Tensor, pred: Tensor) -> None:
    weight = case.get("in_weight", torch.ones_like(loss))
    torch.testing.assert_close(loss * weight, case["out_loss_none"], rtol=1e-9, atol=1e-9)
    (loss * weight).sum().backward()
    torch.testing.assert_close(pred.grad, case["grad_pred_of_sum"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("file", golden_cases("losses/smooth_l1"))
def test_smooth_l1_matches_mmdetection(file: Path) -> None:
    case = load_case(file)
    pred, beta = case["in_pred"].requires_grad_(), case.param("beta")
    check_elementwise(case, smooth_l1_loss(pred, case["in_target"], beta=beta), pred)
    weight = case.get("in_weight")
    for reduction in ("mean", "sum"):
        value = smooth_l1_loss(pred, case["in_target"], beta=beta, weight=weight, reduction=reduction)
        torch.testing.assert_close(value, case[f"out_loss_{reduction}"], rtol=1e-9, atol=1e-9)
    if "param_avg_factor" in case:
        value = smooth_l1_loss(
            pred, case["in_target"], beta=beta, weight=weight, reduction="mean", normalizer=case.param("avg_factor")
        )
        torch.testing.assert_close(value, case["out_loss_avg_factor"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("file", golden_cases("losses/balanced_l1"))
def test_balanced_l1_matches_mmdetection(file: Path) -> None:
    case = load_case(file)
    hyper = {name: case.param(name) for name in ("alpha", "gamma", "beta")}
    pred, weight = case["in_pred"].requires_grad_(), case.get("in_weight")
    check_elementwise(case, balanced_l1_loss(pred, case["in_target"], **hyper), pred)
    mean = balanced_l1_loss(pred, case["in_target"], weight=weight, reduction="mean", **hyper)
    torch.testing.assert_close(mean, case["out_loss_mean"], rtol=1e-9, atol=1e-9)
    if "param_avg_factor" in case:
        options = {"weight": weight, "reduction": "mean", "normalizer": case.param("avg_factor")}
        average = balanced_l1_loss(pred, case["in_target"], **options, **hyper)
        torch.testing.assert_close(average, case["out_loss_avg_factor"], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("file", golden_cases("losses/smooth_l1_sigma"))
def test_sigma_form_matches_faster_rcnn(file: Path) -> None:
    case = load_case(file)
    pred = case["in_pred"].requires_grad_()
    weights = {"inside_weight": case["in_inside_weights"], "weight": case["in_outside_weights"]}
    loss = sigma_smooth_l1_loss(pred, case["in_target"], sigma=case.param("sigma"), **weights)
    torch.testing.assert_close(loss, case["out_loss_elementwise"], rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(loss.sum(), case["out_sum"], rtol=2e-5, atol=2e-5)
    loss.sum().backward()
    torch.testing.assert_close(pred.grad, case["grad_pred_of_sum"], rtol=2e-5, atol=2e-5)
    torch.testing.assert_close(loss.sum(), case["out_sum"], rtol=2e-5, atol=2e-5)


def test_weights_may_be_given_per_box() -> None:
    pred, weight = torch.randn(3, 5, 4), torch.rand(3, 5)
    expected = (pred.abs() * weight.unsqueeze(-1)).sum((1, 2))
    torch.testing.assert_close(l1_loss(pred, torch.zeros_like(pred), weight=weight, reduction="image"), expected)


def test_beta_may_not_be_negative() -> None:
    with pytest.raises(ValueError, match="beta must not be negative, got -1"):
        smooth_l1_loss(torch.zeros(1), torch.zeros(1), beta=-1)


@pytest.mark.parametrize("shape", [(24,), (3, 8), (2, 3, 4)], ids=str)
@pytest.mark.parametrize("reduction", ["none", "sum", "mean"])
def test_balanced_l1_takes_any_shape(shape: tuple[int, ...], reduction: Reduction) -> None:
    pred, target, weight = torch.randn(3, 24, dtype=torch.float64) * 2
    normalizer = 3.0 if reduction == "mean" else None
    expected = balanced_l1_loss(pred.view(6, 4), target.view(6, 4)).flatten() * weight
    found = balanced_l1_loss(
        pred.view(shape),
        target.view(shape),
        weight=weight.view(shape),
        reduction=reduction,
        normalizer=normalizer,
    )
    torch.testing.assert_close(found, reduce(expected.view(shape), reduction, normalizer))
    assert balanced_l1_loss(pred.view(shape).half(), target.view(shape)).dtype == torch.float32
