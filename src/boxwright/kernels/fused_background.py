# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The two passes over all logits as Triton kernels: each logit is read twice and each gradient written once.

The formulas are those of `boxwright.kernels.background`, which is its reference. Sums are kept in fixed point, so that
the order of the additions does not matter. Import this module only where Triton is installed.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from boxwright.kernels.background import narrow
from boxwright.kernels.entries import Entries
from boxwright.kernels.soft_count import Ramps

__all__ = ["FusedBackground"]

BLOCK = 1024
# so many tables are counted into, as far as they fit this memory, which stays in the cache of the device
MOST_TABLES = 512
TABLE_ENTRIES = 2**18
# a whole ramp in fixed point: 2^31 background entries do not overflow 64 bits
UNIT = 2**31


class FusedBackground:
    """As `boxwright.kernels.background.Background`, of padded entries; never waits for the device."""

    with_positives = False

    def __init__(self, entries: Entries, ramps: Ramps, remember: bool) -> None:
        self.entries, self.ramps = entries, ramps
        # of the last group, which holds the free places, nobody asks
        first, last = ramps.outer[:, : entries.groups].unbind()
        # 2^steps exceeds the number of edges of any group
        self.steps = torch.frexp((last - first).max().double()).exponent
        self.blocks = triton.cdiv(entries.logits.numel(), BLOCK)
        wide = entries.logits.numel() + BLOCK >= 2**31
        self.constants = {"SPARSE": entries.sparse, "SCOPE": entries.scope, "WIDE": wide, "BLOCK": BLOCK}

    def tally(self) -> tuple[Tensor, Tensor]:
        """Return number and sum of the background per bin, (2, S) float64, and a zero that is NaN where a score is."""
        edges, delta = self.ramps.edges, self.ramps.delta
        memory = max(TABLE_ENTRIES, len(edges))
        counted = torch.zeros(2 * memory + 1, dtype=torch.int64, device=edges.device)
        used = self.ramps.outer[0, -1:]  # where the bins of the free places begin
        if self.blocks:
            units = UNIT / (2 * delta) if delta > 0 else 0.0
            _tally[(self.blocks,)](
                *self._arguments(),
                counted,
                used,
                UNITS=units,
                UNIT=float(UNIT),
                MEMORY=memory,
                MOST_TABLES=MOST_TABLES,
                RISING=delta > 0,
                **self.constants,
            )
        table = torch.zeros(2, len(edges), dtype=torch.float64, device=edges.device)
        _join[(triton.cdiv(len(edges), BLOCK),)](
            counted,
            used,
            edges,
            table,
            len(edges),
            SCALE=2 * delta / UNIT,
            MEMORY=memory,
            MOST_TABLES=MOST_TABLES,
            BLOCK=BLOCK,
        )
        return table, torch.where(counted[-1] > 0, torch.nan, 0.0)

    def gradient(self, lines: Tensor, positives: Tensor, dtype: torch.dtype) -> Tensor:
        """(R, C) gradient: `a + b x` of background by the lines (2, S) of its bins, and that of the positives (P,)."""
        logits, positive = self.entries.logits, self.entries.positive
        # free places among the positives write behind the end
        gradient = logits.new_empty(logits.numel() + 1, dtype=dtype)
        if self.blocks:
            _gradient[(self.blocks,)](*self._arguments(), lines, gradient, len(self.ramps.edges), **self.constants)
        gradient.index_copy_(0, positive, narrow(positives, gradient.dtype))
        return gradient[:-1].view(logits.shape)

    def _arguments(self) -> tuple[Tensor | int, ...]:
        entries, ramps = self.entries, self.ramps
        columns = entries.logits.shape[1]
        return (
            entries.logits,
            entries.targets.view(torch.uint8) if entries.targets.dtype == torch.bool else entries.targets,
            ramps.edges,
            ramps.outer,
            self.steps,
            entries.logits.numel(),
            columns,
            columns * entries.rows_per_image,
            ramps.outer.shape[1],
        )


@triton.jit
def _background(
    logits,
    targets,
    edges,
    outer,
    steps,
    entries,
    columns,
    per_image,
    groups,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the entries of a block, their scores and bins, the first and last bins there, and which are background."""
    block = tl.program_id(0)
    if WIDE:
        block = block.to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    here = at < entries
    x = tl.load(logits + at, mask=here, other=0.0).to(edges.dtype.element_ty)
    if SPARSE:
        label = tl.load(targets + at // columns, mask=here, other=-2)
        background = here & (label != at % columns) & (label != -2)
    else:
        background = here & (tl.load(targets + at, mask=here, other=-1) == 0)
    if SCOPE == "class":
        group = at % columns
    elif SCOPE == "image":
        group = at // per_image
    else:
        group = at * 0
    first = tl.load(outer + group, mask=here, other=0)
    last = tl.load(outer + groups + group, mask=here, other=0)
    bin = first
    halvings = tl.load(steps)
    for step in range(halvings):
        stride = 1 << (halvings - 1 - step)
        inside = bin + stride <= last
        edge = tl.load(edges + bin + stride - 1, mask=here & inside, other=float("inf"))
        bin = tl.where(inside & (x >= edge), bin + stride, bin)
    return at, here, x, bin, first, last, background


@triton.jit
def _tally(
    logits,
    targets,
    edges,
    outer,
    steps,
    entries,
    columns,
    per_image,
    groups,
    counted,
    used,
    UNITS: tl.constexpr,
    UNIT: tl.constexpr,
    MEMORY: tl.constexpr,
    MOST_TABLES: tl.constexpr,
    RISING: tl.constexpr,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    _at, _here, x, bin, first, last, background = _background(
        logits, targets, edges, outer, steps, entries, columns, per_image, groups, SPARSE, SCOPE, WIDE, BLOCK
    )
    size = tl.load(used)
    tables = tl.minimum(MEMORY // size, MOST_TABLES)
    number = counted + tl.program_id(0) % tables * size
    one = tl.full((BLOCK,), 1, tl.int64)
    # nobody asks how much lies below all ramps of a group
    tl.atomic_add(number + bin, one, mask=background & (bin > first))
    tl.atomic_add(counted + 2 * MEMORY + bin * 0, one, mask=background & (x != x))
    if RISING:
        rising = background & (bin > first) & (bin < last)
        left = tl.load(edges + bin - 1, mask=rising, other=0.0)
        # wider bins are gaps, in which no ramp rises
        offset = tl.minimum((x - left).to(tl.float64) * UNITS, UNIT)
        offset = tl.where(rising, offset, 0.0)
        tl.atomic_add(number + MEMORY + bin, (offset + 0.5).to(tl.int64), mask=rising)


@triton.jit
def _join(
    counted,
    used,
    edges,
    table,
    bins,
    SCALE: tl.constexpr,
    MEMORY: tl.constexpr,
    MOST_TABLES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Add up the tables, and turn offsets from the left edges of bins into sums."""
    bin = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    size = tl.load(used)
    here = bin < size
    number = tl.zeros((BLOCK,), tl.int64)
    offset = tl.zeros((BLOCK,), tl.int64)
    for place in range(tl.minimum(MEMORY // size, MOST_TABLES)):
        number += tl.load(counted + place * size + bin, mask=here, other=0)
        offset += tl.load(counted + MEMORY + place * size + bin, mask=here, other=0)
    left = tl.load(edges + bin - 1, mask=here & (number > 0), other=0.0).to(tl.float64)
    weight = number.to(tl.float64)
    tl.store(table + bin, weight, mask=bin < bins)
    tl.store(table + bins + bin, weight * left + offset.to(tl.float64) * SCALE, mask=bin < bins)


@triton.jit
def _gradient(
    logits,
    targets,
    edges,
    outer,
    steps,
    entries,
    columns,
    per_image,
    groups,
    lines,
    gradient,
    size,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, here, x, bin, first, _, background = _background(
        logits, targets, edges, outer, steps, entries, columns, per_image, groups, SPARSE, SCOPE, WIDE, BLOCK
    )
    level = tl.load(lines + bin, mask=background & (bin > first), other=0.0)
    slope = tl.load(lines + size + bin, mask=background & (bin > first), other=0.0)
    change = level + slope * tl.where(background, x, 0.0).to(tl.float64)
    if gradient.dtype.element_ty == tl.float16:
        change = tl.minimum(tl.maximum(change, -65504.0), 65504.0)
    if gradient.dtype.element_ty != tl.float64:
        change = change.to(tl.float32)  # from which there is a way to every narrower type
    tl.store(gradient + at, change.to(gradient.dtype.element_ty), mask=here)
