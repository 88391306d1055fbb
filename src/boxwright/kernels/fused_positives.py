# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""Which entries are positive and which background, found in one pass over the targets by Triton kernels.

Nobody waits for the number of positives: there is room for so many. What is background is remembered in one bit per
entry, so that nothing else reads dense targets again. Import this module only where Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["find"]

BLOCK = 1024


def find(goal: Tensor, labels: bool, capacity: int) -> tuple[Tensor, Tensor]:
    """Return the ascending places of the positives, (capacity,) with N where one is free, and the bits of background.

    More positives than room raise on the device.

    Args:
        goal: (N,) labels, positive from 0 on; or values, positive above 0 and background where 0.
        labels: whether it holds labels.
        capacity: room for positives.
    """
    size = len(goal)
    blocks = triton.cdiv(size, BLOCK)
    goal = goal.view(torch.uint8) if goal.dtype == torch.bool else goal
    place = torch.full((capacity,), size, device=goal.device)
    bits = torch.empty(2, blocks * (BLOCK // 32), dtype=torch.int32, device=goal.device)
    if not blocks:
        return place, bits[1]
    counts = torch.empty(blocks, dtype=torch.int32, device=goal.device)
    _mark[(blocks,)](goal, bits, counts, size, blocks * (BLOCK // 32), LABELS=labels, BLOCK=BLOCK)
    ends = counts.cumsum(0)
    torch._assert_async(ends[-1] <= capacity, f"more than {capacity} positives in a batch on one device")
    _place[(blocks,)](bits, counts, ends, place, capacity, BLOCK=BLOCK)
    return place, bits[1]


@triton.jit
def _mark(goal, bits, counts, size, words, LABELS: tl.constexpr, BLOCK: tl.constexpr):
    """Write two bits for each entry, positive and background, and how many positives a block has."""
    block = tl.program_id(0).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    here = at < size
    value = tl.load(goal + at, mask=here, other=0)
    positive = here & (value >= 0 if LABELS else value > 0)
    lane = tl.arange(0, 32)[None, :]
    word = block * (BLOCK // 32) + tl.arange(0, BLOCK // 32)
    tl.store(bits + word, tl.sum(tl.reshape(positive.to(tl.int32), (BLOCK // 32, 32)) << lane, axis=1))
    tl.store(counts + block, tl.sum(positive.to(tl.int32), axis=0))
    if not LABELS:
        background = here & (value == 0)
        tl.store(bits + words + word, tl.sum(tl.reshape(background.to(tl.int32), (BLOCK // 32, 32)) << lane, axis=1))


@triton.jit
def _place(bits, counts, ends, place, capacity, BLOCK: tl.constexpr):
    """Write the places of a block's positives."""
    block = tl.program_id(0).to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    positive = (tl.load(bits + at // 32) >> (at % 32).to(tl.int32)) & 1
    order = tl.load(ends + block) - tl.load(counts + block) + tl.cumsum(positive, 0) - 1
    tl.store(place + order, at, mask=(positive > 0) & (order < capacity))
