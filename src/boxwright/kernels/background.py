"""The two passes over all logits: counting the background per bin, and handing each entry its share of the update.

This is the reference, and what runs on a CPU: in pieces that stay in a cache, each shared out among torch's own
threads. (These go on spinning for a while after every operation, so any other threads would have to compete with them.)
Of the bins it keeps what fits into the memory of the gradient. `boxwright.kernels.fused_streams` does the same on a
GPU.
"""

import math
from typing import NamedTuple, Self

import torch
from torch import Tensor

from boxwright.kernels.entries import IGNORED, Entries
from boxwright.kernels.grid import Grid
from boxwright.kernels.soft_count import Ramps

__all__ = ["Background", "narrow"]

# entries per thread: few enough for a cache, and so many that it does not matter what starting an operation costs
CHUNK = 2**17
# what a device without such caches takes at once
MUCH = 2**24
# Small problems are cut into so many pieces that the memory to work in does not outweigh the logits, but into no more
# than the fewest where a piece would not be worth a second thread to torch.
FEWEST, PIECES, WORTH_A_THREAD = 4, 12, 40_000
LARGEST = torch.finfo(torch.float32).max


class Background:
    """The background among some entries, and the ramps that it is counted against.

    Args:
        entries: the entries.
        ramps: around the positives (of all processes).
        remember: whether there will be a gradient.

    Attributes:
        with_positives: whether positives are counted among the background, for the caller to take out again.
        bounded: whether all scores are finite; known when they have been tallied.
    """

    def __init__(self, entries: Entries, ramps: Ramps, remember: bool) -> None:
        self.entries, self.ramps = entries, ramps
        self.with_positives = entries.sparse
        logits = entries.logits
        # the gradient's memory holds the bins until it is written; they are int32, so that they fit
        self.memory = _like(logits, logits.dtype) if remember and logits.dtype == torch.float32 else None
        self.threads = torch.get_num_threads() if logits.is_cpu else 1
        self.pieces = self._divide()
        self.grid = Grid.over(ramps, logits.numel(), self.threads)

    def tally(self) -> tuple[Tensor, Tensor]:
        """Return number and sum of the background per bin, (2, S) float64, and a zero that is NaN where a score is."""
        # Sum and number are the parts of one complex number, so that one look-up adds to both. Each thread counts by
        # itself, so that nothing depends on which comes first.
        table = self.ramps.thresholds.new_zeros(self.threads, len(self.ramps.edges), dtype=torch.complex128)
        work = _Work.fitting(self.pieces, self.entries, bins=self.memory is None)
        for piece in self.pieces:
            work = work.of(piece)
            place = work.place.copy_(self._locate(piece, work))
            table.scatter_add_(1, place, work.pair.copy_(piece.logits).add_(1j))
        total, number = torch.view_as_real(table.sum(0)).unbind(1)
        self.bounded = math.isfinite(total.sum().item())
        return torch.stack([number, total]), total.clamp(0, 0).sum()

    def gradient(self, lines: Tensor, positives: Tensor, dtype: torch.dtype) -> Tensor:
        """(R, C) gradient: `a + b x` of background by the lines (2, S) of its bins, and that of the positives (P,)."""
        entries, gradient = self.entries, self.memory
        if gradient is None:
            gradient = _like(entries.logits, dtype)
        level, slope = lines.unsqueeze(1).expand(-1, self.threads, -1).unbind()
        work = _Work.fitting(self.pieces, entries, bins=self.memory is None)
        for piece in self.pieces:
            work = work.of(piece)
            place = work.place.copy_(self._locate(piece, work) if self.memory is None else piece.bins)
            torch.gather(level, 1, place, out=work.wide)
            torch.gather(slope, 1, place, out=work.more)
            # in float64, because the two parts cancel where scores are large
            scores = work.same.copy_(piece.logits)
            if not self.bounded:  # no slope times an infinite score is no gradient
                scores.clamp_(-LARGEST, LARGEST)
            work.wide.addcmul_(work.more, scores)
            gradient[piece.rows].view_as(place).copy_(_within(gradient.dtype, work.wide))
        self.memory = None
        gradient.view(-1).index_copy_(0, entries.positive, narrow(positives, gradient.dtype))
        return gradient

    def _divide(self) -> list["_Piece"]:
        """Divide the entries into pieces of so many rows, and each piece among the threads."""
        entries = self.entries
        rows, columns = entries.logits.shape
        size = rows * columns
        if not size:
            return []
        few = max(FEWEST, min(PIECES, size // WORTH_A_THREAD))
        pieces = max(few, -(-size // (CHUNK * self.threads))) if entries.logits.is_cpu else -(-size // MUCH)
        step = -(-rows // pieces)
        step += -step % self.threads
        starts = range(0, rows, step)
        logits = self._rows(entries.logits, step)
        bins = logits if self.memory is None else self._rows(self.memory.view(torch.int32), step)
        marks = self._ignored(step, len(starts)) if entries.sparse else self._rows(entries.targets, step)
        rows_of = [slice(start, start + step) for start in starts]
        return [_Piece(*parts) for parts in zip(rows_of, logits, bins, marks, strict=True)]

    def _rows(self, values: Tensor, step: int) -> list[Tensor]:
        """Split values (R, C) by rows; each piece anew into as many rows as there are threads, or into one."""
        pieces = values.split(step)
        return [part.view(1 if part.numel() % self.threads else self.threads, -1) for part in pieces]

    def _ignored(self, step: int, pieces: int) -> list[Tensor]:
        """Rows of each piece that are ignored, counted from its start."""
        found = (self.entries.targets == IGNORED).nonzero().view(-1)
        if not len(found):
            return [found] * pieces
        ends = torch.searchsorted(found, torch.arange(step, step * pieces, step, device=found.device))
        return [part - step * place for place, part in enumerate(found.tensor_split(ends.cpu()))]

    def _locate(self, piece: "_Piece", work: "_Work") -> Tensor:
        """Return the bins of a piece, int32; the lowest is for what is no background too."""
        entries, values, lowest, base = self.entries, piece.logits, None, None
        if values.dtype != entries.dtype:
            values = work.values.copy_(values)
        index = work.bins if self.memory is None else piece.bins
        if entries.scope != "batch":
            group = entries.groups_of(piece.rows).view_as(values)
            lowest = self.ramps.outer[0].int().index_select(0, group.view(-1)).view_as(group)
            base = group.mul_(self.grid.cells)
        self.grid.locate(values, base, index, work.real, work.place, work.step)
        if not entries.sparse:
            background = work.step.copy_(torch.eq(piece.marks, 0, out=work.real))
            index.mul_(background) if lowest is None else index.sub_(lowest).mul_(background).add_(lowest)
        elif len(piece.marks):
            table = index.view(-1, entries.logits.shape[1])
            table[piece.marks] = 0 if lowest is None else lowest.view_as(table)[piece.marks]
        return index


class _Piece(NamedTuple):
    """Some rows of the entries, of which each thread takes a part: T parts of N / T entries.

    Attributes:
        rows: which they are.
        logits: (T, N / T).
        bins: (T, N / T) int32, where in the memory of the gradient they are remembered; without meaning if nowhere.
        marks: (T, N / T) dense targets, or the ignored rows, counted from the first.
    """

    rows: slice
    logits: Tensor
    bins: Tensor
    marks: Tensor


class _Work(NamedTuple):
    """Memory to work in, (T, N / T) each. Some of it is the same, but what one thread uses never is another's.

    Attributes:
        pair: complex128.
        wide: float64, the first half of each row of `pair`.
        more: float64, the second half.
        real: of the dtype that is computed in, the first of `wide`.
        place: int64.
        same: float64, the memory of `place`.
        step: int32, the first half of each row of `place`.
        values: of the dtype that is computed in; only where that of the logits is another.
        bins: int32; only where they are not remembered.
    """

    pair: Tensor
    wide: Tensor
    more: Tensor
    real: Tensor
    place: Tensor
    same: Tensor
    step: Tensor
    values: Tensor
    bins: Tensor

    @classmethod
    def fitting(cls, pieces: list[_Piece], entries: Entries, bins: bool) -> Self:
        """Make memory for the largest of the pieces, the first; for bins where these are not remembered."""
        shape = pieces[0].logits.shape if pieces else (1, 0)
        new, half = entries.logits.new_empty, entries.logits.dtype != entries.dtype
        return cls._arrange(
            new(shape, dtype=torch.complex128),
            new(shape, dtype=torch.int64),
            new(shape if half else (1, 0), dtype=entries.dtype),
            new(shape if bins else (1, 0), dtype=torch.int32),
        )

    def of(self, piece: _Piece) -> Self:
        """Return as much as a piece needs, in its shape."""
        shape = piece.logits.shape
        if self.place.shape == shape:
            return self
        memory = (self.pair, self.place, self.values, self.bins)
        return self._arrange(*(part.view(-1)[: shape.numel()].view(shape) if part.numel() else part for part in memory))

    @classmethod
    def _arrange(cls, pair: Tensor, place: Tensor, values: Tensor, bins: Tensor) -> Self:
        numbers, columns = torch.view_as_real(pair).flatten(1), pair.shape[1]
        wide, more = numbers[:, :columns], numbers[:, columns:]
        real, step = numbers.view(values.dtype)[:, :columns], place.view(torch.int32)[:, :columns]
        return cls(pair, wide, more, real, place, place.view(torch.float64), step, values, bins)


def _like(logits: Tensor, dtype: torch.dtype) -> Tensor:
    """Make memory for a gradient, which must be an ordinary tensor to whoever gets it."""
    with torch.inference_mode(False):
        return torch.empty_like(logits, dtype=dtype)


def narrow(gradient: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert gradients; those in float16 end at its largest value instead of at infinity."""
    return _within(dtype, gradient).to(dtype)


def _within(dtype: torch.dtype, gradient: Tensor) -> Tensor:
    if dtype != torch.float16:
        return gradient
    largest = torch.finfo(dtype).max
    return gradient.clamp(-largest, largest)
