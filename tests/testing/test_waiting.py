"""`check_never_waits` finds what waits for a CUDA device, without one."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from boxwright.structures import Assignment
from boxwright.testing import check_never_waits

VALUES = torch.arange(6.0).view(2, 3)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.register_buffer("shift", torch.zeros(3))

    def forward(self, values: Tensor) -> Tensor:
        return values * self.weight + self.shift


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.clamp(min=torch.tensor(0.5)),  # a number of the host goes along with the launch
        lambda x: x.topk(2).indices + torch.arange(2, device=x.device),
        lambda x: torch.tensor([1.0, 2.0, 3.0]).to(x.device, non_blocking=True) * x,
        lambda x: x.masked_fill(x > 1, 0).gather(1, torch.zeros_like(x, dtype=torch.int64)),
        lambda x: x[torch.zeros(2, dtype=torch.int64, device=x.device)],
        Scaled(),
    ],
)
def test_what_does_not_wait_passes(function: Callable[[Tensor], object]) -> None:
    check_never_waits(function, VALUES)


@pytest.mark.parametrize(
    ("function", "complaint"),
    [
        (lambda x: x.sum().item(), "waits for the device .a value is read"),
        (lambda x: x.tolist(), "waits for the device .a value is read"),
        (lambda x: 0 if (x > 1).any() else 1, "waits for the device .a value is read"),
        (lambda x: torch.equal(x, x + 1), "waits for the device .*equal"),
        (lambda x: x.nonzero(), "waits for the device .nonzero, or indexing by a mask"),
        (lambda x: x.unique(), "waits for the device .*unique"),
        (lambda x: x[x > 1], "waits for the device .nonzero, or indexing by a mask"),
        (lambda x: x.masked_select(x > 1), "waits for the device .*masked_select"),
        (lambda x: x.repeat_interleave(x.long()[0], dim=1), "waits for the device .*repeat_interleave"),
        (lambda x: x.clone().index_put_((x > 1,), torch.ones((), device=x.device)), "waits for the device .*by a mask"),
        (lambda x: x[torch.tensor([1, 0])], "waits for the device .*on the host"),
        (lambda x: x.cpu(), "copies from cuda to cpu"),
        (lambda x: torch.zeros(2, 3).copy_(x), "copies from cuda to cpu"),
        (lambda x: torch.ones(3).to(x.device) * x, "copies from cpu to cuda"),
        (lambda x: torch.tensor([1.0, 2.0, 3.0], device=x.device) * x, "copies from cpu to cuda"),
        (lambda x: torch.arange(3) + x, "would fail on a CUDA device: .*(same device|different devices)"),
    ],
)
def test_what_waits_is_named(function: Callable[[Tensor], object], complaint: str) -> None:
    with pytest.raises(AssertionError, match=complaint):
        check_never_waits(function, VALUES)


def test_structures_are_on_the_device_and_others_as_they_are() -> None:
    assignment = Assignment(torch.zeros(2, 3, dtype=torch.int64), VALUES)

    def function(moved: Assignment, number: int) -> Assignment:
        assert moved.gt_index.is_cuda
        assert moved.score.is_cuda
        assert number == 3
        return replace(moved, score=moved.score * number)

    check_never_waits(function, assignment, 3)
