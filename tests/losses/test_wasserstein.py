"""Normalised Wasserstein distance."""

import math

import torch

from boxwright.losses import normalized_wasserstein_loss


def test_the_distance_of_two_gaussians() -> None:
    pred, target = torch.tensor([[0.0, 0.0, 4.0, 6.0]]), torch.tensor([[3.0, 4.0, 9.0, 8.0]])
    # centres (2, 3) and (6, 6); sizes (4, 6) and (6, 4)
    distance = math.sqrt(4**2 + 3**2 + (2**2 + 2**2) / 4)
    loss = normalized_wasserstein_loss(pred, target, constant=10.0)
    torch.testing.assert_close(loss, torch.tensor([1 - math.exp(-distance / 10)]), rtol=1e-4, atol=0)


def test_equal_boxes_cost_nothing_and_stay() -> None:
    box = torch.tensor([[1.0, 2.0, 3.0, 4.0]], requires_grad=True)
    loss = normalized_wasserstein_loss(box, box.detach().clone())
    loss.sum().backward()
    assert loss.item() == 0
    assert box.grad.abs().max() == 0
