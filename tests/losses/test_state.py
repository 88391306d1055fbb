"""Losses with state in a network of half precision: the state stays wide, so nothing overflows or stands still."""

import copy

import pytest
import torch
from torch import Tensor, nn

from boxwright import losses

COUNT = 70_000  # more than float16 can count


def boxes() -> tuple[Tensor, Tensor]:
    corner = torch.rand(200, 2) * 50
    goal = torch.cat([corner, corner + 5], dim=-1)
    return goal + 0.5, goal


CALLS = {
    losses.GHMCLoss(): (torch.randn(COUNT, 3) - 4, torch.randint(-1, 3, (COUNT,))),
    losses.GHMRLoss(): (torch.randn(COUNT, 4), torch.zeros(COUNT, 4)),
    losses.EqualizedV2Loss(3): (torch.randn(COUNT, 3) + 4, torch.randint(-1, 3, (COUNT,))),
    losses.WiseIoULoss(): boxes(),
    losses.FineGrainedLocalizationLoss(): (torch.randn(50, 4, 33), torch.rand(50, 4)),
}


@pytest.mark.parametrize("loss", CALLS, ids=lambda loss: type(loss).__name__)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_network_of_half_precision_does_not_narrow_the_state(loss: nn.Module, dtype: torch.dtype) -> None:
    inputs, targets = CALLS[loss]
    usual, narrow = copy.deepcopy(loss), copy.deepcopy(loss).to(dtype)
    for _ in range(100 if len(inputs) < COUNT else 3):
        expected, actual = usual(inputs, targets), narrow(inputs, targets)
    assert actual == expected
    for a, b in zip(usual.buffers(), narrow.buffers(), strict=True):
        torch.testing.assert_close(b, a, rtol=0, atol=0)


def test_the_state_moves_and_widens() -> None:
    assert losses.WiseIoULoss().to("meta", torch.float16).mean.device.type == "meta"
    assert losses.WiseIoULoss().double().mean.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_steps_of_alrp_are_counted_in_a_network_of_half_precision(dtype: torch.dtype) -> None:
    loss = losses.ALRPLoss().to(dtype)
    loss.history[2] = 5000  # where both dtypes count in steps of more than one
    loss(torch.tensor([[1.0], [2.0]]), torch.tensor([0, -1]), torch.tensor([0.5, 0.0]))
    assert loss.history[2] == 5001
