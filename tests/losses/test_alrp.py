"""aLRP against the golden cases."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from boxwright.losses.alrp import alrp_loss
from boxwright.testing import check_criterion
from goldens import golden_cases, load_case


def close(actual: Tensor, expected: Tensor, tolerance: float = 1e-9) -> None:
    torch.testing.assert_close(actual, expected.reshape(actual.shape), rtol=tolerance, atol=tolerance)


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
