"""Error-driven updates of rankings on a GPU: a dozen kernels, two of which read all logits.

Nothing waits for the device, and the same bits come out on every run. The formulas are those of the rules in
`boxwright.losses`, through `boxwright.kernels.error_driven`, which is the reference. Import this module only where
Triton is installed.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from boxwright.kernels import fused_order, fused_rules, fused_streams
from boxwright.kernels.entries import CAPACITY

__all__ = ["RULES", "FusedRanking", "evaluate"]

# the losses of each rule
RULES = {"ap": 1, "rank_sort": 2, "alrp": 1}
CELLS = 2**15
TILE = 1024
# blocks at most of a pass over all logits or over pairs of positives
PROGRAMS = 2048
# pairs that a block compares at a time
PAIRS: dict[str, Any] = {"ROWS": 4, "COLS": 512}
# a table entry for so many logits: 8 bytes, to be cleared and added up
LOGITS_PER_ENTRY = 16


def evaluate(
    inputs: Tensor, targets: Tensor, quality: Tensor | None, rule: str, delta: float, remember: bool
) -> tuple[Tensor, Tensor, "FusedRanking"]:
    """Return the losses (T,), the weights of the priors (the targets' shape, or empty), and what backward needs."""
    ranking = FusedRanking(inputs, targets, delta)
    ranking.order(quality)
    ranking.tally()
    return *ranking.judge(rule, remember), ranking


class FusedRanking:
    """A ranking of a whole batch; its memory is O(P), and for dense targets a bit for each.

    Args:
        inputs: (…, C) logits.
        targets: (…) labels or (…, C) qualities.
        delta: half the width of the ramp.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, delta: float) -> None:
        self.logits, self.targets = inputs.detach().contiguous(), targets.detach().contiguous()
        if targets.dtype == torch.bool:
            self.targets = self.targets.view(torch.uint8)
        self.size, sparse = inputs.numel(), targets.ndim < inputs.ndim
        # rows that begin at multiples of 16 are read several numbers at a time
        self.capacity = max(16, triton.cdiv(min(CAPACITY, targets.numel()), 16) * 16)
        self.memory = max(2 * self.capacity, self.size // LOGITS_PER_ENTRY)
        self.programs = min(triton.cdiv(self.size, TILE), PROGRAMS)
        self.few = (min(triton.cdiv(self.capacity, PAIRS["ROWS"]), PROGRAMS),)
        self.shape: dict[str, Any] = {"COLUMNS": max(inputs.shape[-1], 1) if sparse else 1, "SPARSE": sparse}
        self.ramp: dict[str, Any] = {"DELTA": float(delta)}
        # but for the state, nothing is read before it is written
        new = self.logits.new_empty
        self.state = self.logits.new_zeros(fused_order.STATE + self.memory, dtype=torch.int64)
        self.places = new((2, self.capacity), dtype=torch.int64)
        self.real = new((fused_order.REAL_ROWS, self.capacity), dtype=torch.promote_types(inputs.dtype, torch.float32))
        self.wide = new((fused_rules.WIDE_ROWS, self.capacity), dtype=torch.float64)
        self.cells = new(CELLS, dtype=torch.int32)
        self.marks = self.cells if sparse else new(triton.cdiv(self.size, TILE) * TILE // 32, dtype=torch.int32)

    def order(self, quality: Tensor | None) -> None:
        """Find the positives, put them in order, and lay cells over the ends of their ramps."""
        if self.size:
            fused_order.find[(triton.cdiv(self.targets.numel(), TILE),)](
                self.logits,
                self.targets,
                self.logits if quality is None else quality.detach().contiguous(),
                self.state,
                self.places,
                self.real,
                self.marks,
                self.targets.numel(),
                self.capacity,
                HAS_QUALITY=quality is not None,
                TILE=TILE,
                **self.shape,
            )
        fused_order.order[self.few](self.state, self.places, self.real, self.capacity, **self.ramp, **PAIRS)
        fused_order.lay_cells[(CELLS // 256,)](self.state, self.real, self.cells, self.capacity, CELLS=CELLS, TILE=256)

    def tally(self) -> None:
        """Count the background from edge to edge."""
        if not self.size:
            return
        fused_streams.tally[(self.programs,)](
            *self._stream(),
            self.size,
            self.capacity,
            self.memory,
            CELLS=CELLS,
            TILE=TILE,
            **self.ramp,
            **self.shape,
        )
        fused_streams.join[(triton.cdiv(2 * self.capacity, 32),)](
            self.state,
            self.real,
            self.size,
            self.capacity,
            self.memory,
            self.programs,
            TILE=TILE,
            HEIGHT=64,
            WIDTH=32,
            num_warps=8,
            **self.ramp,
        )

    def judge(self, rule: str, remember: bool) -> tuple[Tensor, Tensor]:
        """Apply a rule; return the losses (T,), and the weights of the priors (the targets' shape, or empty)."""
        losses = self.real.new_empty(RULES[rule])
        weights = losses.new_zeros(self.targets.shape) if rule == "alrp" else losses.new_empty(0)
        fused_rules.count[self.few](self.state, self.real, self.wide, self.capacity, RULE=rule, **self.ramp, **PAIRS)
        fused_rules.judge[(1,)](
            self.state,
            self.real,
            self.wide,
            losses,
            self.capacity,
            CAPACITY=CAPACITY,
            RULE=rule,
            TILE=2048,
            num_warps=16,
            sanitize_overflow=False,
            **self.ramp,
        )
        if remember or rule == "alrp":
            fused_rules.hand_out[self.few](
                self.state,
                self.places,
                self.real,
                self.wide,
                weights,
                self.capacity,
                COLUMNS=self.shape["COLUMNS"],
                RULE=rule,
                **self.ramp,
                **PAIRS,
            )
        return losses, weights

    def gradient(self, upstream: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Gradient of the losses weighed by `upstream`, in the shape of the logits."""
        gradient = torch.empty_like(self.logits, dtype=dtype)
        if not self.size:
            return gradient
        fused_streams.write[(self.programs,)](
            *self._stream(),
            upstream[0],
            gradient,
            self.size,
            self.capacity,
            CELLS=CELLS,
            TILE=TILE,
            **self.ramp,
            **self.shape,
        )
        fused_streams.place[(triton.cdiv(self.capacity, 256),)](
            self.state,
            self.places,
            self.wide,
            upstream[0],
            upstream[-1],
            gradient,
            self.capacity,
            SORTED=len(upstream) > 1,
            TILE=256,
        )
        return gradient

    def _stream(self) -> tuple[Tensor, ...]:
        return self.logits, self.targets, self.marks, self.state, self.real, self.cells
