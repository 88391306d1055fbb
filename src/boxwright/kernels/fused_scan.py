# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Cumulative sums that are added in one order, which PyTorch's own on a GPU are not; only where Triton is installed."""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["cumulative"]

BLOCK = 2048


def cumulative(values: Tensor) -> Tensor:
    """(M, S) cumulative sums of float64 values (M, S) along the rows."""
    values = values.contiguous()
    out = torch.empty_like(values)
    _scan[(len(values),)](values, out, values.shape[1], BLOCK=BLOCK)
    return out


@triton.jit
def _scan(values, out, size, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * size
    total = tl.zeros((), tl.float64)
    for start in range(0, size, BLOCK):
        at = start + tl.arange(0, BLOCK)
        part = tl.load(values + row + at, mask=at < size, other=0.0)
        tl.store(out + row + at, total + tl.cumsum(part, 0), mask=at < size)
        total += tl.sum(part, 0)
