# mypy: disable-error-code="no-untyped-def, untyped-decorator"
"""The two passes over all logits as Triton kernels: each logit is read twice and each gradient written once.

The formulas are those of `boxwright.kernels.background`, which is its reference. Number and sum of a bin are counted
together in one integer, in fixed point, so that the order of the additions does not matter. Import this module only
where Triton is installed.
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
MOST_TABLES = 64
TABLE_ENTRIES = 2**20
# A bin's integer is its number times NUMBER, and the sum of its offsets where UNIT is a whole ramp. So many blocks in
# one table overflow neither: below 2^20 entries, whose offsets are below 2^43.
UNIT, NUMBER = 2**23, 2**43
MOST_BLOCKS = 2**20 // BLOCK - 1
# cells over the range of the ramps: where a value's bin is, up to a step or two
CELLS = 2**14
# tile in which the tables are added up
TABLES, BINS = 16, 64


class FusedBackground:
    """As `boxwright.kernels.background.Background`, of padded entries; never waits for the device."""

    with_positives = False

    def __init__(self, entries: Entries, ramps: Ramps, remember: bool) -> None:
        self.entries, self.ramps = entries, ramps
        self.blocks = triton.cdiv(entries.logits.numel(), BLOCK)
        wide = entries.logits.numel() + BLOCK >= 2**31
        self.constants = {
            "SPARSE": entries.sparse,
            "SCOPE": entries.scope,
            "CELLS": CELLS,
            "WIDE": wide,
            "BLOCK": BLOCK,
        }
        edges = ramps.edges
        self.frame, self.cells = edges.new_empty(2), torch.empty(CELLS + 1, dtype=torch.int32, device=edges.device)
        if entries.scope == "batch":
            _cells[(triton.cdiv(CELLS + 1, BLOCK),)](
                edges, ramps.outer, self.frame, self.cells, CELLS=CELLS, BLOCK=BLOCK
            )

    def tally(self) -> tuple[Tensor, Tensor]:
        """Return number and sum of the background per bin, (2, S) float64, and a zero that is NaN where a score is."""
        edges, outer, delta = self.ramps.edges, self.ramps.outer, self.ramps.delta
        memory = max(TABLE_ENTRIES, len(edges))
        counted = torch.empty(memory + 1, dtype=torch.int64, device=edges.device)
        table = torch.zeros(2 * len(edges) + 1, dtype=torch.float64, device=edges.device)
        sizes = {"MEMORY": memory, "MOST_TABLES": MOST_TABLES, "NUMBER": NUMBER}
        turn = min(memory // len(edges), MOST_TABLES) * MOST_BLOCKS
        for start in range(0, self.blocks, turn):
            counted.zero_()
            grid = (min(turn, self.blocks - start),)
            units = UNIT / (2 * delta) if delta > 0 else 0.0
            _tally[grid](*self._arguments(), counted, start, UNITS=units, UNIT=float(UNIT), **sizes, **self.constants)
            grid = (triton.cdiv(len(edges), BINS),)
            _join[grid](
                counted,
                edges,
                outer,
                outer.shape[1],
                table,
                len(edges),
                SCALE=2 * delta / UNIT,
                SCOPE=self.entries.scope,
                TABLES=TABLES,
                BINS=BINS,
                **sizes,
            )
        return table[:-1].view(2, -1), table[-1]

    def gradient(self, lines: Tensor, positives: Tensor, dtype: torch.dtype) -> Tensor:
        """(R, C) gradient: `a + b x` of background by the lines (2, S) of its bins, and that of the positives (P,)."""
        logits, positive = self.entries.logits, self.entries.positive
        # free places among the positives write behind the end
        gradient = logits.new_empty(logits.numel() + 1, dtype=dtype)
        if self.blocks:
            _gradient[(self.blocks,)](*self._arguments(), lines, gradient, len(self.ramps.edges), **self.constants)
        gradient.index_copy_(0, positive, narrow(positives, gradient.dtype))
        return gradient[:-1].view(logits.shape)

    def _arguments(self) -> tuple[Tensor | int | None, ...]:
        entries, ramps = self.entries, self.ramps
        columns = entries.logits.shape[1]
        return (
            entries.logits,
            entries.targets if entries.sparse else entries.bits,
            ramps.edges,
            ramps.outer,
            self.frame,
            self.cells,
            entries.logits.numel(),
            columns,
            columns * entries.rows_per_image,
            ramps.outer.shape[1],
        )


@triton.jit
def _cell(x, low, scale, CELLS: tl.constexpr):
    """Cell of values: monotone, whatever is rounded; that of what is no number is 0."""
    real = (x - low) * scale
    return tl.where(real >= 0, tl.minimum(real, CELLS - 1.0), 0.0).to(tl.int32)


@triton.jit
def _region(outer, groups, SCOPE: tl.constexpr):
    """First bin, and how many, of those that anything is counted in: not below nor among the free places."""
    if SCOPE == "batch":
        base = tl.load(outer).to(tl.int32)
        size = tl.load(outer + 1).to(tl.int32) - base + 1
    else:
        base = 0
        size = tl.load(outer + groups - 1).to(tl.int32)
    return base, size


@triton.jit
def _cells(edges, outer, frame, cells, CELLS: tl.constexpr, BLOCK: tl.constexpr):
    """Lay cells over the edges of one group: in which bin each begins, and where and how wide they are."""
    cell = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    first = tl.load(outer).to(tl.int32)
    last = tl.load(outer + 1).to(tl.int32)
    left = tl.load(edges + first)
    right = tl.load(edges + tl.maximum(last - 1, first))
    scale = CELLS / tl.maximum(right - left, 1e-12)
    tl.store(frame, left)
    tl.store(frame + 1, scale)
    low = cell * 0 + first
    high = low + last - first
    width = last - first
    while width > 0:
        middle = (low + high) // 2
        edge = tl.load(edges + middle, mask=low < high, other=float("inf"))
        below = (low < high) & (_cell(edge, left, scale, CELLS) < cell)
        low = tl.where(below, middle + 1, low)
        high = tl.where(below, high, tl.minimum(high, middle))
        width = width // 2
    tl.store(cells + cell, low, mask=cell <= CELLS)


@triton.jit
def _background(
    block,
    logits,
    targets,
    edges,
    outer,
    frame,
    cells,
    entries,
    columns,
    per_image,
    groups,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    CELLS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Return the entries of a block, their scores and bins, the first and last bins there, and which are background."""
    if WIDE:
        block = block.to(tl.int64)
    at = block * BLOCK + tl.arange(0, BLOCK)
    here = at < entries
    x = tl.load(logits + at, mask=here, other=0.0).to(edges.dtype.element_ty)
    if SPARSE:
        label = tl.load(targets + at // columns, mask=here, other=-2)
        background = here & (label != at % columns) & (label != -2)
    else:
        background = ((tl.load(targets + at // 32, mask=here, other=0) >> (at % 32).to(tl.int32)) & 1) > 0
    if SCOPE == "batch":
        first = tl.load(outer).to(tl.int32)
        last = tl.load(outer + 1).to(tl.int32)
        cell = _cell(x, tl.load(frame), tl.load(frame + 1), CELLS)
        low = tl.load(cells + cell, mask=background, other=0)
        high = tl.load(cells + cell + 1, mask=background, other=0)
    else:
        group = at % columns if SCOPE == "class" else at // per_image
        first = tl.load(outer + group, mask=here, other=0).to(tl.int32)
        last = tl.load(outer + groups + group, mask=here, other=0).to(tl.int32)
        low = first
        high = last
    width = tl.max(high - low, axis=0)
    while width > 0:
        middle = (low + high) // 2
        edge = tl.load(edges + middle, mask=background & (low < high), other=float("inf"))
        reached = (low < high) & (x >= edge)
        low = tl.where(reached, middle + 1, low)
        high = tl.where(reached, high, tl.minimum(high, middle))
        width = width // 2
    return at, here, x, low, first, last, background


@triton.jit
def _tally(
    logits,
    targets,
    edges,
    outer,
    frame,
    cells,
    entries,
    columns,
    per_image,
    groups,
    counted,
    start,
    UNITS: tl.constexpr,
    UNIT: tl.constexpr,
    NUMBER: tl.constexpr,
    MEMORY: tl.constexpr,
    MOST_TABLES: tl.constexpr,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    CELLS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    block = start + tl.program_id(0)
    _at, _here, x, bin, first, last, background = _background(
        block,
        logits,
        targets,
        edges,
        outer,
        frame,
        cells,
        entries,
        columns,
        per_image,
        groups,
        SPARSE,
        SCOPE,
        CELLS,
        WIDE,
        BLOCK,
    )
    base, size = _region(outer, groups, SCOPE)
    tables = tl.minimum(MEMORY // size, MOST_TABLES)
    amount = tl.full((BLOCK,), NUMBER, tl.int64)
    tl.atomic_add(counted + MEMORY + bin * 0, amount, mask=background & (x != x))
    if UNITS > 0:
        rising = background & (bin > first) & (bin < last)
        left = tl.load(edges + bin - 1, mask=rising, other=0.0)
        # wider bins are gaps, in which no ramp rises
        offset = tl.where(rising, tl.minimum((x - left).to(tl.float64) * UNITS, UNIT), 0.0)
        amount += (offset + 0.5).to(tl.int64)
    # nobody asks how much lies below all ramps of a group
    tl.atomic_add(counted + tl.program_id(0) % tables * size + bin - base, amount, mask=background & (bin > first))


@triton.jit
def _join(
    counted,
    edges,
    outer,
    groups,
    table,
    bins,
    SCALE: tl.constexpr,
    NUMBER: tl.constexpr,
    MEMORY: tl.constexpr,
    MOST_TABLES: tl.constexpr,
    SCOPE: tl.constexpr,
    TABLES: tl.constexpr,
    BINS: tl.constexpr,
):
    """Add up the tables, and turn offsets from the left edges of bins into sums."""
    bin = tl.program_id(0) * BINS + tl.arange(0, BINS)
    base, size = _region(outer, groups, SCOPE)
    here = bin < size
    tables = tl.minimum(MEMORY // size, MOST_TABLES)
    number = tl.zeros((BINS,), tl.int64)
    offset = tl.zeros((BINS,), tl.int64)
    for place in range(0, tables, TABLES):
        row = place + tl.arange(0, TABLES)
        amount = tl.load(
            counted + row[:, None] * size + bin[None, :], mask=here[None, :] & (row < tables)[:, None], other=0
        )
        number += tl.sum(amount // NUMBER, axis=0)
        offset += tl.sum(amount % NUMBER, axis=0)
    left = tl.load(edges + base + bin - 1, mask=here & (number > 0), other=0.0).to(tl.float64)
    weight = number.to(tl.float64)
    total = weight * left + offset.to(tl.float64) * SCALE
    table += base
    tl.store(table + bin, tl.load(table + bin, mask=here, other=0.0) + weight, mask=here)
    tl.store(table + bins + bin, tl.load(table + bins + bin, mask=here, other=0.0) + total, mask=here)
    tl.store(table - base + 2 * bins, float("nan"), mask=tl.load(counted + MEMORY) > 0)


@triton.jit
def _gradient(
    logits,
    targets,
    edges,
    outer,
    frame,
    cells,
    entries,
    columns,
    per_image,
    groups,
    lines,
    gradient,
    size,
    SPARSE: tl.constexpr,
    SCOPE: tl.constexpr,
    CELLS: tl.constexpr,
    WIDE: tl.constexpr,
    BLOCK: tl.constexpr,
):
    at, here, x, bin, first, _, background = _background(
        tl.program_id(0),
        logits,
        targets,
        edges,
        outer,
        frame,
        cells,
        entries,
        columns,
        per_image,
        groups,
        SPARSE,
        SCOPE,
        CELLS,
        WIDE,
        BLOCK,
    )
    level = tl.load(lines + bin, mask=background & (bin > first), other=0.0)
    slope = tl.load(lines + size + bin, mask=background & (bin > first), other=0.0)
    change = level + slope * tl.where(background, x, 0.0).to(tl.float64)
    if gradient.dtype.element_ty == tl.float16:
        change = tl.minimum(tl.maximum(change, -65504.0), 65504.0)
    if gradient.dtype.element_ty != tl.float64:
        change = change.to(tl.float32)  # from which there is a way to every narrower type
    tl.store(gradient + at, change.to(gradient.dtype.element_ty), mask=here)
