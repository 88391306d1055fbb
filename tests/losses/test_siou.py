"""SIoU's closed-form gradient against the plain formula, and its hyper-parameter; the formula is in test_iou_shape."""

import pytest
import torch

from boxwright.losses import siou_loss
from boxwright.losses.siou import _Costs, siou_costs


@pytest.mark.parametrize("theta", [1.0, 2.0, 4.0, 6.5])
@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("eps", [1e-7, 3.0])
def test_the_gradient_is_that_of_the_plain_formula(theta: float, zeros: bool, inverted: bool, eps: float) -> None:
    offset, hull, size, target_size = (torch.randn(2, 500, dtype=torch.float64) * 5 for _ in range(4))
    hull, target_size = hull.abs(), target_size.abs()
    size = -size.abs() if inverted else size.abs()
    if zeros:
        for extent in (offset, hull, size, target_size):
            extent[torch.rand_like(extent) < 0.2] = 0
        same = torch.rand_like(size) < 0.2
        size[same] = target_size[same]
    extents = [extent.requires_grad_() for extent in (offset, hull, size, target_size)]
    upstream = torch.rand(500, dtype=torch.float64)
    results = []
    for function in (siou_costs, _Costs.apply):
        cost = function(*extents, theta, eps)
        results.append((cost.detach(), *torch.autograd.grad((cost * upstream).sum(), extents)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-11, atol=1e-11)


def test_an_infinite_slope_is_refused() -> None:
    with pytest.raises(ValueError, match="theta must be at least 1"):
        siou_loss(torch.zeros(1, 4), torch.zeros(1, 4), theta=0.5)
