"""The overlap losses against golden data, torchvision, gradcheck and degenerate boxes."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from boxwright.losses.iou import _AspectAngle, aspect_angle, ciou_loss, diou_loss, giou_loss, iou_loss
from goldens import Case, golden_cases, load_case

Loss = Callable[..., Tensor]


def check_golden(file: Path, loss: Loss, **hyper: object) -> None:
    """Values everywhere, gradients where the original has one, reductions where the case holds them."""
    case = load_case(file)
    eps = case.param("eps")
    pred, target = case["in_pred"].requires_grad_(), case["in_target"].requires_grad_()
    value = loss(pred, target, eps=eps, **hyper)
    expected = case["out_loss_none"]
    defined = expected.isfinite()
    torch.testing.assert_close(value[defined], expected[defined], rtol=1e-7, atol=1e-7)
    assert value.isfinite().all()
    value.sum().backward()
    smooth = case["out_grad_is_smooth"]
    torch.testing.assert_close(pred.grad[smooth], case["grad_pred_of_sum"][smooth], rtol=1e-7, atol=1e-7)
    assert pred.grad.isfinite().all()
    if "grad_target_of_sum" in case:
        torch.testing.assert_close(target.grad[smooth], case["grad_target_of_sum"][smooth], rtol=1e-7, atol=1e-7)
    check_reductions(case, loss, eps=eps, **hyper)


def check_reductions(case: Case, loss: Loss, **hyper: object) -> None:
    pair = case["in_pred"].detach(), case["in_target"].detach()
    if "out_loss_mean" in case:
        mean = loss(*pair, reduction="mean", **hyper)
        torch.testing.assert_close(mean, case["out_loss_mean"], rtol=1e-7, atol=1e-7)
    if "out_loss_weighted_avg_factor" in case:
        factor = case.param("avg_factor")
        average = loss(*pair, weight=case["in_weight"], reduction="mean", normalizer=factor, **hyper)
        torch.testing.assert_close(average, case["out_loss_weighted_avg_factor"], rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("file", golden_cases("losses/iou_loss_linear"))
def test_linear_iou_matches_mmdetection(file: Path) -> None:
    check_golden(file, iou_loss, form="linear")


@pytest.mark.parametrize("file", golden_cases("losses/iou_loss_square"))
def test_squared_iou_matches_mmdetection(file: Path) -> None:
    check_golden(file, iou_loss, form="square")


@pytest.mark.parametrize("file", golden_cases("losses/iou_loss_log"))
def test_logarithmic_iou_matches_mmdetection(file: Path) -> None:
    check_golden(file, iou_loss, form="log")


@pytest.mark.parametrize("file", golden_cases("losses/giou"))
def test_giou_matches_mmdetection(file: Path) -> None:
    check_golden(file, giou_loss)


@pytest.mark.parametrize("file", golden_cases("losses/giou_torchvision"))
def test_giou_matches_torchvision(file: Path) -> None:
    check_golden(file, giou_loss, version="torchvision")


@pytest.mark.parametrize("file", golden_cases("losses/diou"))
def test_diou_matches_mmdetection(file: Path) -> None:
    check_golden(file, diou_loss)


@pytest.mark.parametrize("file", golden_cases("losses/ciou_gated"))
def test_ciou_matches_mmdetection_3(file: Path) -> None:
    check_golden(file, ciou_loss, version="gated")


@pytest.mark.parametrize("file", golden_cases("losses/ciou_classic"))
def test_ciou_matches_mmdetection_2(file: Path) -> None:
    check_golden(file, ciou_loss, version="classic")


@pytest.mark.parametrize("file", golden_cases("losses/ciou_torchvision"))
def test_ciou_matches_torchvision_where_that_is_a_number(file: Path) -> None:
    """Flaw 4: the original is NaN for boxes without width and height; `check_golden` asserts that ours is finite."""
    check_golden(file, ciou_loss, version="torchvision")


def test_the_gradient_of_the_aspect_is_that_of_its_formula() -> None:
    size, target_size = ((torch.randn(2, 300, dtype=torch.float64) * 5).requires_grad_() for _ in range(2))
    upstream = torch.randn(300, dtype=torch.float64)
    results = []
    for function in (aspect_angle, _AspectAngle.apply):
        angle = function(size, target_size, 1e-7)
        results.append((angle.detach(), *torch.autograd.grad((angle * upstream).sum(), (size, target_size))))
    torch.testing.assert_close(results[1], results[0], rtol=1e-10, atol=1e-10)
    expected = torch.atan(target_size[0] / (target_size[1] + 1e-7)) - torch.atan(size[0] / (size[1] + 1e-7))
    torch.testing.assert_close(results[0][0], expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "loss",
    [
        iou_loss,
        diou_loss,
        *(partial(giou_loss, version=version) for version in ("floored", "torchvision")),
        *(partial(ciou_loss, version=version) for version in ("gated", "classic", "torchvision")),
    ],
    ids=str,
)
def test_no_divisor_is_zero(loss: Loss) -> None:
    """Not where an inverted prediction takes from the union what eps adds, nor without eps where boxes are equal."""
    inverted = torch.tensor([[0.0, 0.0, -1e-7, 1.0]], requires_grad=True)
    value = loss(inverted, torch.zeros(1, 4), eps=1e-7)
    assert value.isfinite()
    assert torch.autograd.grad(value, inverted)[0].isfinite().all()
    box = torch.tensor([[1.0, 2.0, 4.0, 9.0]], requires_grad=True)
    value = loss(box, box.detach().clone(), eps=0.0)
    assert value == 0
    assert torch.autograd.grad(value, box)[0].isfinite().all()
