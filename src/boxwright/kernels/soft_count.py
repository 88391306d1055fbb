"""How many values lie above each of P thresholds, softly and exactly, from two numbers per bin.

The soft step `H(x - q) = clamp((x - q) / 2δ + 1/2, 0, 1)` is linear between `q - δ` and `q + δ`. The sorted ends of all
ramps cut the line into bins in which every ramp is linear. So the number of values per bin and their sum say all that
`Ramps.counts` needs, and a sum of ramps is a straight line per bin (`Ramps.sums`). Nothing here waits for a device.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

__all__ = ["Ramps"]


@dataclass(frozen=True, slots=True, eq=False)
class Ramps:
    """The ramps around P thresholds in G groups, and the S = 2P + G bins between their ends.

    A value lies in the bin of its group whose left edge is the last one that it reaches.

    Attributes:
        edges: (S,) right edge of each bin, ascending within a group; a group's last bin ends at infinity.
        outer: (2, G) first bin of each group, below all its edges, and last one, above them.
        places: (3, P) bin in which each ramp begins to rise, bin from which on it is 1, and bin of the threshold.
        thresholds: (P,) float64, where the ramps are 1/2.
        group: (P,) group of each threshold; None where there is one.
        delta: half the width; 0 makes steps that count a tie.
    """

    edges: Tensor
    outer: Tensor
    places: Tensor
    thresholds: Tensor
    group: Tensor | None
    delta: float

    @classmethod
    def around(cls, thresholds: Tensor, group: Tensor | None, groups: int, delta: float) -> Self:
        """Make the ramps of thresholds (P,) in groups (P,), of which there are `groups`."""
        size = len(thresholds)
        keys = torch.cat([thresholds - delta, thresholds + delta, thresholds])
        ends, order = keys[: 2 * size].sort()
        # how many ends each key reaches
        places = torch.searchsorted(ends, keys, right=True)
        if group is None:
            edges = torch.nn.functional.pad(ends, (0, 1), value=torch.inf)
            outer = places.new_zeros((2, 1))
            outer[1] = 2 * size
        else:
            group = group.repeat(3)
            places += group * (2 * size + 1)
            ranks, order = places[: 2 * size].sort()
            places = torch.searchsorted(ranks, places, right=True) + group
            numbers = torch.arange(max(groups + 1, 2 * size), device=keys.device)
            edges = keys.new_full((2 * size + groups,), torch.inf)
            edges.scatter_(0, numbers[: 2 * size] + group[order], keys[order])
            # behind the last edge of each group
            last = torch.searchsorted(ranks, numbers[1 : groups + 1] * (2 * size + 1)) + numbers[:groups]
            outer = torch.stack([torch.nn.functional.pad(last[:-1] + 1, (1, 0)), last])
            group = group[:size]
        return cls(edges, outer, places.view(3, size), thresholds.double(), group, delta)

    def tally(self, weights: Tensor) -> Tensor:
        """Weigh the thresholds themselves per bin: (2, K, S) weight and weighted sum, of weights (K, P) in float64."""
        both = torch.stack([weights, weights * self.thresholds])
        return both.new_zeros(*both.shape[:2], len(self.edges)).index_add_(2, self.places[2], both)

    def counts(self, table: Tensor) -> Tensor:
        """Weigh what lies above each threshold: (K, P) float64 `Σ_j w_j H(x_j - q)` over the values of its group.

        Args:
            table: (2, K, S) float64 number (or weight) of the values per bin, and their (weighted) sum; huge sums in
                the outer bins, in which no ramp rises, would cost digits.
        """
        # sums from the top, so that the few values above a high threshold keep their digits
        above = table.flip(2).cumsum(2).flip(2)
        place = self.places[:2].view(-1).expand(*table.shape[:2], -1)
        count, moment = above.gather(2, place).view(*table.shape[:2], 2, -1).unbind()
        started, full = count.unbind(1)
        inside = started - full
        if self.group is not None:
            beyond = torch.nn.functional.pad(above[0], (0, 1)).index_select(1, self.outer[1] + 1)
            full = full - beyond.index_select(1, self.group)
        if self.delta == 0:
            return full
        foot = self.thresholds - self.delta
        part = torch.addcmul(moment[:, 0] - moment[:, 1], foot, inside, value=-1)
        return full + part.div_(2 * self.delta).clamp_(min=0)

    def sums(self, weights: Tensor) -> Tensor:
        """Add weighted ramps: (2, S) float64 lines `a + b x` that are `Σ_i w_i H(x - q_i)` in each bin.

        Args:
            weights: (P,) weight of each threshold, in float64.
        """
        lines = weights.new_zeros(2, len(self.edges))
        if self.delta == 0:
            lines[0].index_add_(0, self.places[1], weights)
        else:
            slope = weights / (2 * self.delta)
            lift = slope * (self.delta - self.thresholds)
            change = torch.cat([lift, weights - lift, slope, -slope]).view(2, -1)
            lines.index_add_(1, self.places[:2].view(-1), change)
        lines = lines.cumsum(1)
        if self.group is not None:  # each group begins with nothing
            first = self.outer[0]
            bins = torch.arange(len(self.edges), device=first.device)
            owner = torch.searchsorted(first, bins, right=True) - 1
            lines = lines - lines.index_select(1, first).index_select(1, owner)
        # what rounding leaves of the slope beyond the last ramp would meet scores without bound
        lines[1].index_fill_(0, self.outer.view(-1), 0)
        return lines

    def sums_at_thresholds(self, weights: Tensor) -> Tensor:
        """Evaluate `Σ_i w_i H(q_k - q_i)` at every threshold, (P,) float64."""
        level, slope = self.sums(weights).index_select(1, self.places[2])
        return level + slope * self.thresholds
