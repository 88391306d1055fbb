"""Box regression with uncertainty (He et al. 2019)."""

import math

import pytest
import torch

from boxwright.losses import GaussianLoss, gaussian_loss


def test_both_pieces_of_the_papers_formula() -> None:
    inputs = torch.tensor([[0.5, 3.0, 0.2, -0.4]])
    loss = gaussian_loss(inputs, torch.zeros(1, 2))
    near = math.exp(-0.2) * 0.5 * 0.5**2 + 0.2 / 2
    far = math.exp(0.4) * (3 - 0.5) - 0.4 / 2
    torch.testing.assert_close(loss, torch.tensor([[near, far]]))


def test_the_variance_has_a_least_value_and_stays_finite() -> None:
    inputs = torch.tensor([[0.0, -1e4], [5.0, -1e4], [5.0, 1e4]], requires_grad=True)
    loss = gaussian_loss(inputs, torch.zeros(3, 1), least=-4.0)
    loss.sum().backward()
    assert loss[0].item() == -2
    assert loss.isfinite().all()
    assert inputs.grad.isfinite().all()


def test_shapes_that_do_not_pair_up_are_named() -> None:
    with pytest.raises(ValueError, match=r"\(3, 4\), got \(3, 4\)"):
        GaussianLoss()(torch.zeros(3, 4), torch.zeros(3, 4))
