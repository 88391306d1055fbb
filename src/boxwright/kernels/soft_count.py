"""How many values lie above each of P thresholds, softly and exactly, in one pass over the values.

The soft step `H(x - q) = clamp((x - q) / 2δ + 1/2, 0, 1)` is linear between `q - δ` and `q + δ`. The sorted ends of all
ramps cut the line into bins in which every ramp is linear. So the number of values per bin and the sum of their offsets
from its left edge say all that `Ramps.counts` needs, and a sum of ramps is one value and one slope per bin
(`Ramps.sums`).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["Bins", "Ramps"]

# cells of the grid in which edges are looked up, per edge: few edges share one
CELLS_PER_EDGE = 64
MOST_CELLS = 2**18


@dataclass(frozen=True, slots=True, eq=False)
class Bins:
    """Bins between sorted edges, in G separate groups, and a grid of cells to find them by.

    A value lies in the bin whose left edge is the last one that it reaches; bin `start[g]` is below all edges of g.

    Attributes:
        edges: (S,) ascending within a group, each group closed by infinities; bin i ends at `edges[i]`.
        left: (S,) left edge of each bin; the first bin of a group takes its first edge instead.
        group: (S,) group of each bin.
        start: (G,) first bin of each group.
        first: (G * cells,) int32, the bin in which each cell begins.
        low: the lowest edge, where the grid begins.
        scale: cells per unit.
        cells: cells per group.
        strides: the steps that lead from a cell's first bin to any of its bins, each with the edges to compare with.
    """

    edges: Tensor
    left: Tensor
    group: Tensor
    start: Tensor
    first: Tensor
    low: float
    scale: float
    cells: int
    strides: tuple[tuple[int, Tensor], ...]

    @classmethod
    def between(cls, edges: Tensor, group: Tensor, groups: int) -> Self:
        """Make the bins of edges (E,) that belong to groups (E,)."""
        values, order = edges.sort()
        owner = group[order]
        if groups > 1:
            owner, order = owner.sort(stable=True)
            values = values[order]
        low, high = (edges.min().item(), edges.max().item()) if len(edges) else (0.0, 0.0)
        cells = 1 << (min(len(edges) * CELLS_PER_EDGE, MOST_CELLS) // groups).bit_length()
        scale = cells / max(high - low, 1e-20)
        cell = cell_of(values, low, scale, cells, torch.empty_like(values), values.new_empty(len(values)).int())
        population = torch.bincount(cell + owner.int() * cells, minlength=groups * cells)
        steps = int(population.max()).bit_length()
        # a search that starts in a group never steps past its infinities
        padding = 2**steps
        gap = torch.arange(groups, device=edges.device) * padding
        count = torch.bincount(owner, minlength=groups)
        start = count.cumsum(0) - count + gap
        slot = torch.arange(len(values), device=edges.device) + gap[owner]
        padded = values.new_full((len(values) + groups * padding,), torch.inf)
        padded[slot] = values
        left = torch.zeros_like(padded)
        left[slot + 1] = values
        left[start] = torch.where(count > 0, padded[start], 0)
        return cls(
            edges=padded,
            left=left,
            group=torch.arange(groups, device=edges.device).repeat_interleave(count + padding),
            start=start,
            first=(population.cumsum(0) - population + gap.repeat_interleave(cells)).int(),
            low=low,
            scale=scale,
            cells=cells,
            strides=tuple((2**step, padded[2**step - 1 :]) for step in reversed(range(steps))),
        )

    def locate(
        self,
        values: Tensor,
        base: Tensor | None = None,
        out: tuple[Tensor, Tensor, Tensor] | None = None,
    ) -> Tensor:
        """Find the bins of values, int32 and flat.

        Args:
            values: of the edges' dtype; what is not a number lies lowest.
            base: first cell of each value's group, broadcastable to the values; None where there is one group.
            out: (N,) memory: integers for the result, float and int32 to work in.
        """
        flat = values.view(-1)
        index, real, step = out or (flat.int(), torch.empty_like(flat), flat.int())
        cell_of(flat, self.low, self.scale, self.cells, real, step)
        if base is not None:
            step.view(values.shape).add_(base)
        torch.index_select(self.first, 0, step, out=index)
        for stride, edges in self.strides:
            torch.index_select(edges, 0, index, out=real)
            index.add_(torch.ge(flat, real, out=step), alpha=stride)
        return index


@dataclass(frozen=True, slots=True, eq=False)
class Ramps:
    """The ramps around P thresholds.

    Attributes:
        bins: between the ends of the ramps.
        foot: (P,) float64, where each ramp leaves 0, relative to `bins.low`.
        rise: (P,) bin in which each begins to rise.
        top: (P,) bin from which on it is 1.
        group: (P,) group of each threshold.
        delta: half the width; 0 makes steps that count a tie.
    """

    bins: Bins
    foot: Tensor
    rise: Tensor
    top: Tensor
    group: Tensor
    delta: float

    @classmethod
    def around(cls, thresholds: Tensor, group: Tensor, groups: int, delta: float) -> Self:
        """Make the ramps of thresholds (P,) in groups (P,), of which there are `groups`."""
        ends = torch.cat([thresholds - delta, thresholds + delta])
        owner = torch.cat([group, group])
        bins = Bins.between(ends, owner, groups)
        rise, top = bins.locate(ends, (owner * bins.cells).int()).long().view(2, len(thresholds)).unbind()
        return cls(bins, thresholds.double() - delta - bins.low, rise, top, group, delta)

    def tally(self, values: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the weight and the weighted sum of offsets per bin, (S,) float64, of thresholds-like values (P,)."""
        index = self.bins.locate(values, (self.group * self.bins.cells).int())
        offset = (values - self.bins.left[index]).double()
        weights = torch.ones_like(offset) if weights is None else weights.double()
        size = len(self.bins.edges)
        return torch.bincount(index, weights, minlength=size), torch.bincount(index, weights * offset, minlength=size)

    def counts(self, number: Tensor, offsets: Tensor) -> Tensor:
        """Weigh what lies above each threshold: (P,) float64 `Σ_j H(x_j - q)` over the values of its group.

        Args:
            number: (S,) float64 number (or weight) of the values per bin.
            offsets: (S,) float64 sum of their offsets from the bin's left edge.
        """
        left = self.bins.left.double() - self.bins.low
        lowest = self.bins.start
        # no ramp reaches the lowest bins, and what lies there may be huge
        number, offsets = number.index_fill(0, lowest, 0), offsets.index_fill(0, lowest, 0)
        # sums from the top, so that the few values above a high threshold keep their digits
        above, moment = (_from_top(part) for part in (number, offsets + number * left))
        ends = torch.cat([lowest[1:], lowest.new_full((1,), len(number))])[self.group]
        full = above[self.top] - above[ends]
        if self.delta == 0:
            return full
        rising = moment[self.rise] - moment[self.top] - self.foot * (above[self.rise] - above[self.top])
        return (full + rising / (2 * self.delta)).clamp(min=0)

    def sums(self, weights: Tensor) -> tuple[Tensor, Tensor]:
        """Add weighted ramps: (S,) float64 value of `Σ_i w_i H(x - q_i)` at each bin's left edge, and slope in the bin.

        Args:
            weights: (P,) weight of each threshold.
        """
        weights = weights.double()
        level, slope = (weights.new_zeros(len(self.bins.edges)) for _ in range(2))
        level.index_add_(0, self.top, weights)
        if self.delta > 0:
            incline = weights / (2 * self.delta)
            slope.index_add_(0, self.rise, incline).index_add_(0, self.top, -incline)
            level.index_add_(0, self.rise, -incline * self.foot).index_add_(0, self.top, incline * self.foot)
        level, slope = level.cumsum(0), slope.cumsum(0)
        origin = self.bins.start[self.bins.group]  # each group begins with nothing
        level, slope = level - level[origin], slope - slope[origin]
        return level + slope * (self.bins.left.double() - self.bins.low), slope

    def sums_at(self, values: Tensor, weights: Tensor) -> Tensor:
        """Evaluate `Σ_i w_i H(x - q_i)` at values (P,), each in the group of the threshold at its place; float64."""
        value, slope = self.sums(weights)
        index = self.bins.locate(values, (self.group * self.bins.cells).int())
        return value[index] + slope[index] * (values - self.bins.left[index]).double()


def cell_of(values: Tensor, low: float, scale: float, cells: int, real: Tensor, out: Tensor) -> Tensor:
    """Write the cells of values into `out`: monotone, and the same for equal values, whatever is rounded."""
    torch.sub(values, low, out=real)
    out.copy_(real.mul_(scale).clamp_(max=cells - 1))
    return out.clamp_(min=0)  # only here, since "not a number" becomes a negative integer


def _from_top(part: Tensor) -> Tensor:
    """(S + 1,) sums of everything from each bin on."""
    return torch.cat([part.flip(0).cumsum(0).flip(0), part.new_zeros(1)])
