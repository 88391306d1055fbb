"""What comparisons of losses with loops share: seeds, tolerances, and formulas of one pair or entry."""

import pytest
import torch
from torch import Tensor

__all__ = ["EXACT", "OVERLAP", "bce", "overlaps", "random_boxes", "same", "seeds", "sigma_loop"]

seeds = pytest.mark.parametrize("seed", range(8))
EXACT = {"rtol": 1e-9, "atol": 1e-9}
OVERLAP = {"rtol": 1e-7, "atol": 1e-7}


def same(value: Tensor, expected: Tensor, *inputs: Tensor, tolerance: dict[str, float] = EXACT) -> None:
    torch.testing.assert_close(value, expected, **tolerance)
    theirs = torch.autograd.grad(expected, inputs, allow_unused=True, materialize_grads=True, retain_graph=True)
    torch.testing.assert_close(torch.autograd.grad(value, inputs), theirs, **tolerance)


def overlaps(a: Tensor, b: Tensor, floor: float = 1e-6) -> tuple[Tensor, Tensor]:
    """IoU and GIoU of one pair of xyxy boxes."""
    inner = (torch.minimum(a[2:], b[2:]) - torch.maximum(a[:2], b[:2])).clamp(min=0).prod()
    union = ((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod() - inner).clamp(min=floor)
    hull = (torch.maximum(a[2:], b[2:]) - torch.minimum(a[:2], b[:2])).prod().clamp(min=floor)
    return inner / union, inner / union - (hull - union) / hull


def bce(p: Tensor, t: Tensor) -> Tensor:
    return -(t * p.log() + (1 - t) * (1 - p).log())


def random_boxes(count: int, size: float = 40.0) -> Tensor:
    corner = torch.rand(count, 2) * size
    return torch.cat([corner, corner + 3 + torch.rand(count, 2) * size], -1)


def sigma_loop(x: Tensor, t: Tensor, inside: Tensor, outside: Tensor, sigma: float) -> Tensor:
    error = inside * (x - t)
    near = error.abs() < 1 / sigma**2
    return outside * torch.where(near, (sigma * error) ** 2 / 2, error.abs() - 0.5 / sigma**2)
