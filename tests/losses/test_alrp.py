"""aLRP against the golden cases, and against loops in float64."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

import ranking_reference
from boxwright.losses.alrp import alrp_loss, average_lrp
from boxwright.testing import check_criterion
from goldens import close, golden_cases, load_case


@pytest.mark.parametrize("file", golden_cases("losses/alrp"))
def test_golden_alrp(file: Path) -> None:
    case = load_case(file)
    logits, targets = case["in_logits"].requires_grad_(), case["in_targets"]
    positives = case["in_regression_losses"].requires_grad_()
    box_losses = torch.zeros_like(logits).masked_scatter(targets == 1, positives)
    classification, localization = alrp_loss(
        logits, targets, box_losses, delta=case.param("delta"), tau=case.param("tau")
    )
    close(classification, case["out_cls_loss"])
    close(localization, case["out_loc_loss"])
    close(torch.autograd.grad(classification, logits)[0], case["grad_logits"])
    close(torch.autograd.grad(localization, positives)[0], case["grad_regression_losses"])


@settings(max_examples=60)
@given(ranking_reference.entries, ranking_reference.deltas)
def test_ties_extremes_and_nothing(entries: list[tuple[float, int, float]], delta: float) -> None:
    logits, targets, box_losses = ranking_reference.tensors(entries)
    positive = targets == 1
    expected = ranking_reference.alrp(logits.detach(), positive, targets == 0, box_losses, delta, 0.5)
    classification, localization = alrp_loss(logits, targets, box_losses.requires_grad_(), delta=delta, tau=0.5)
    close(classification, expected[0])
    close(localization, expected[1])
    close(torch.autograd.grad(classification, logits)[0], expected[2])
    close(torch.autograd.grad(localization, box_losses)[0], expected[3])
    if delta == 0:  # the metric is the same with hard steps
        close(average_lrp(logits, targets, box_losses, tau=0.5), expected[0] + expected[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("delta", [1.0, 0.0])
def test_every_precision_equals_the_loop(dtype: torch.dtype, delta: float) -> None:
    logits = (torch.randn(2, 400, 5) * 2 - 2).to(dtype).requires_grad_()
    labels = torch.where(torch.rand(2, 400) < 0.05, torch.randint(0, 5, (2, 400)), -1)
    labels[torch.rand(2, 400) < 0.1] = -2
    boxes = torch.rand(2, 400, dtype=torch.float64, requires_grad=True)
    hot, counted = labels.unsqueeze(-1) == torch.arange(5), labels.unsqueeze(-1) != -2
    spread = boxes.detach().unsqueeze(-1).expand(2, 400, 5).reshape(-1)
    expected = ranking_reference.alrp(
        logits.detach().double().view(-1), hot.view(-1), (counted & ~hot).view(-1), spread, delta, 0.7
    )
    tolerance = 2e-6 if dtype == torch.float32 else 4e-3
    classification, localization = alrp_loss(logits, labels, boxes, delta=delta)
    assert abs(classification.double() - expected[0]) < 1e-6
    assert abs(localization.double() - expected[1]) < 1e-5
    update = torch.autograd.grad(classification, logits)[0].double().view(-1)
    assert (update - expected[2]).norm() < tolerance * expected[2].norm()
    share = torch.autograd.grad(localization, boxes)[0].unsqueeze(-1) * hot
    assert (share.view(-1) - expected[3]).norm() < 1e-5 * expected[3].norm()


def box_losses_of(inputs: Tensor, targets: Tensor) -> Tensor:
    return inputs.detach().float().sigmoid().mean(-1) if targets.ndim < inputs.ndim else inputs.detach().sigmoid()


def both(inputs: Tensor, targets: Tensor) -> Tensor:
    """The two losses as one, so that the shared checks can be run."""
    classification, localization = alrp_loss(inputs, targets, box_losses_of(inputs, targets).double())
    return classification + localization.to(classification.dtype)


def test_alrp_is_sound() -> None:
    check_criterion(both, kind="labels", gradcheck=False, pointwise=False, compile=False)


@pytest.mark.slow
def test_alrp_compiles() -> None:
    check_criterion(both, kind="labels", gradcheck=False, pointwise=False)
