"""The two passes over all logits: counting the background per bin, and handing each entry its share of the update.

This is the reference, and what runs on a CPU: in chunks that stay in cache, spread over threads. Of the bins it keeps
what fits into the memory of the gradient. `boxwright.kernels.fused_background` does the same on a GPU.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.kernels.entries import IGNORED, Entries
from boxwright.kernels.grid import Grid
from boxwright.kernels.soft_count import Ramps

__all__ = ["Background", "narrow"]

# small enough for the second-level cache and for every operation on it to stay on its thread
CHUNK = 2**15
# what a device without such caches takes at once
MUCH = 2**24
# fewer entries are not worth a second thread
WORTH_A_THREAD = 2**17


class Background:
    """The background among some entries, and the ramps that it is counted against.

    Args:
        entries: the entries.
        ramps: around the positives (of all processes).
        remember: whether there will be a gradient.

    Attributes:
        with_positives: whether positives are counted among the background, for the caller to take out again.
    """

    def __init__(self, entries: Entries, ramps: Ramps, remember: bool) -> None:
        self.entries, self.ramps, self.grid = entries, ramps, Grid.over(ramps)
        self.with_positives = entries.sparse
        logits = entries.logits
        # the gradient's memory holds the bins until it is written; they are int32, so that they fit
        self.memory = torch.empty_like(logits) if remember and logits.dtype == torch.float32 else None
        self.threads = min(torch.get_num_threads(), logits.numel() // WORTH_A_THREAD) or 1
        self.pieces = self._divide()

    def tally(self) -> tuple[Tensor, Tensor]:
        """Return number and sum of the background per bin, (2, S) float64, and a zero that is NaN where a score is."""
        size = len(self.ramps.edges)

        def work(pieces: Sequence[_Piece]) -> Tensor:
            buffers = _Buffers.fitting(self.pieces, self.entries, second=False, bins=self.memory is None)
            table = self.ramps.thresholds.new_zeros(2, size)
            number, total = table.unbind()
            for piece in pieces:
                index = self._locate(piece, buffers)
                number += torch.bincount(index, minlength=size)
                wide = buffers.wide[: len(index)].copy_(piece.logits)
                total += torch.bincount(index, wide, minlength=size)
            return table

        table, *others = self._spread(work)
        for other in others:
            table += other
        return table, table[1].sum().clamp_(0, 0)

    def gradient(self, lines: Tensor, positives: Tensor, dtype: torch.dtype) -> Tensor:
        """(R, C) gradient: `a + b x` of background by the lines (2, S) of its bins, and that of the positives (P,)."""
        entries, gradient, self.memory = self.entries, self.memory, None
        level, slope = lines.unbind()
        again = gradient is None
        gradient = torch.empty_like(entries.logits, dtype=dtype) if gradient is None else gradient

        def work(pieces: Sequence[_Piece]) -> Tensor:
            buffers = _Buffers.fitting(self.pieces, entries, second=True, bins=again)
            for piece in pieces:
                index = self._locate(piece, buffers) if again else piece.memory
                # in float64, because the two parts cancel where scores are large
                change, part = buffers.wide[: len(index)], buffers.more[: len(index)]
                change.copy_(piece.logits).mul_(torch.index_select(slope, 0, index, out=part))
                change.add_(torch.index_select(level, 0, index, out=part))
                gradient[piece.rows].view(-1).copy_(_within(gradient.dtype, change))
            return gradient

        self._spread(work)
        gradient.view(-1).index_copy_(0, entries.positive, narrow(positives, gradient.dtype))
        return gradient

    def _divide(self) -> list["_Piece"]:
        """Divide the entries into chunks of rows."""
        entries = self.entries
        if not entries.logits.numel():
            return []
        rows, columns = entries.logits.shape
        most = (CHUNK if entries.logits.is_cpu else MUCH) // columns
        # small problems are cut in four, so that the buffers do not outweigh the logits
        step = max(1, min(most, max(CHUNK // 4 // columns, -(-rows // 4))))
        starts = range(0, rows, step)
        logits = entries.logits.view(-1).split(step * columns)
        memory = ignored = [entries.positive[:0]] * len(starts)
        if self.memory is not None:
            memory = self.memory.view(torch.int32).view(-1).split(step * columns)
        found = (entries.targets == IGNORED).nonzero().view(-1) if entries.sparse else entries.positive[:0]
        if len(found):
            bounds = torch.searchsorted(found, torch.arange(0, rows + step, step, device=found.device)).tolist()
            ignored = [found[a:b] - start for start, a, b in zip(starts, bounds[:-1], bounds[1:], strict=True)]
        parts = zip(starts, logits, memory, ignored, strict=True)
        return [_Piece(slice(start, start + step), *part) for start, *part in parts]

    def _locate(self, piece: "_Piece", buffers: "_Buffers") -> Tensor:
        """Return the bins of a chunk, flat; the lowest is for what is no background too."""
        entries, values, columns = self.entries, piece.logits, self.entries.logits.shape[1]
        size = len(values)
        if values.dtype != entries.dtype:
            values = buffers.more.view(entries.dtype)[:size].copy_(values)
        index = buffers.bins[:size] if len(buffers.bins) else piece.memory
        group = None if entries.scope == "batch" else entries.groups_of(piece.rows)
        base = None if group is None else group * self.grid.cells
        self.grid.locate(values, columns, base, index, buffers.wide.view(entries.dtype)[:size], buffers.step[:size])
        if entries.sparse and not len(piece.ignored):
            return index
        lowest = None if group is None else self.ramps.outer[0].int()[group]
        table = index.view(-1, columns)
        if not entries.sparse:
            background = entries.targets[piece.rows] == 0
            table.mul_(background) if lowest is None else table.sub_(lowest).mul_(background).add_(lowest)
        elif lowest is None:
            table.index_fill_(0, piece.ignored, 0)
        else:
            table[piece.ignored] = lowest.expand(table.shape)[piece.ignored]
        return index

    def _spread(self, work: Callable[[Sequence["_Piece"]], Tensor]) -> list[Tensor]:
        """Divide the pieces among threads, always in the same way."""
        shares = [self.pieces[worker :: self.threads] for worker in range(self.threads)]
        others = [_pool(self.threads - 1, os.getpid()).submit(work, share) for share in shares[1:]]
        return [work(shares[0]), *(other.result() for other in others)]


class _Piece(NamedTuple):
    """A chunk: its rows, their logits and memory for bins, flat, and the ignored rows, counted from its start."""

    rows: slice
    logits: Tensor
    memory: Tensor
    ignored: Tensor


class _Buffers(NamedTuple):
    """Memory for one chunk on one thread; the last only where bins are not remembered."""

    wide: Tensor
    more: Tensor
    step: Tensor
    bins: Tensor

    @classmethod
    def fitting(cls, pieces: list[_Piece], entries: Entries, second: bool, bins: bool) -> "_Buffers":
        """Make buffers for the largest of the pieces, the first; the second float64 and the bins where needed."""
        size = pieces[0].logits.numel() if pieces else 0
        second = second or entries.logits.dtype != entries.dtype
        new = entries.logits.new_empty
        wide, more = new(size, dtype=torch.float64), new(size * second, dtype=torch.float64)
        return cls(wide, more, new(size, dtype=torch.int32), new(size * bins, dtype=torch.int32))


@cache
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads that stay; those of the process that forked this one are not its own."""
    return ThreadPoolExecutor(threads)


def narrow(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert gradients; those in float16 end at its largest value instead of at infinity."""
    return _within(dtype, gradient).to(dtype)


def _within(dtype: torch.dtype, gradient: Tensor) -> Tensor:
    if dtype != torch.float16:
        return gradient
    largest = torch.finfo(dtype).max
    return gradient.clamp(-largest, largest)
