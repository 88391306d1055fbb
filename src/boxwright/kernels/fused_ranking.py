"""Error-driven updates of rankings on a GPU: a dozen kernels, two of which read all logits.

Nothing waits for the device, and the same bits come out on every run. The formulas are those of the rules in
`boxwright.losses`, through `boxwright.kernels.error_driven`, which is the reference. Import this module only where
Triton is installed.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from boxwright.kernels import fused_order, fused_rules, fused_streams
from boxwright.kernels.entries import CAPACITY

__all__ = ["RULES", "FusedState", "evaluate"]

# the losses of each rule
RULES = {"ap": 1, "rank_sort": 2, "alrp": 1}
CELLS = 2**15
TILE = 1024
# blocks at most of a pass over all logits; of one over positives
PROGRAMS, FEW = 2048, 2048
# pairs that a block compares at a time
PAIRS: dict[str, Any] = {"ROWS": 4, "COLS": 512}
# a table entry for so many logits: 8 bytes, to be cleared and added up
LOGITS_PER_ENTRY = 16


class FusedState(NamedTuple):
    """What the backward pass needs: O(P), and a bit for each dense target."""

    logits: Tensor
    targets: Tensor
    marks: Tensor
    state: Tensor
    places: Tensor
    real: Tensor
    wide: Tensor
    cells: Tensor
    constants: dict[str, Any]

    def gradient(self, upstream: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Gradient of the losses weighed by `upstream`, in the shape of the logits."""
        gradient = torch.empty_like(self.logits, dtype=dtype)
        size, capacity = gradient.numel(), self.real.shape[1]
        if size:
            fused_streams.write[(min(triton.cdiv(size, TILE), PROGRAMS),)](
                self.logits,
                self.targets,
                self.marks,
                self.state,
                self.real,
                self.cells,
                upstream[0],
                gradient,
                size,
                capacity,
                CELLS=CELLS,
                TILE=TILE,
                **self.constants,
            )
            fused_streams.place[(triton.cdiv(capacity, 256),)](
                self.state,
                self.places,
                self.wide,
                upstream[0],
                upstream[-1],
                gradient,
                capacity,
                SORTED=len(upstream) > 1,
                TILE=256,
            )
        return gradient


def evaluate(
    inputs: Tensor, targets: Tensor, quality: Tensor | None, rule: str, delta: float, remember: bool
) -> tuple[Tensor, Tensor, FusedState]:
    """Return the losses (T,), the weights of the priors (the targets' shape, or empty), and what backward needs."""
    logits, size = inputs.detach().contiguous(), inputs.numel()
    targets, sparse = targets.detach().contiguous(), targets.ndim < inputs.ndim
    if targets.dtype == torch.bool:
        targets = targets.view(torch.uint8)
    # rows that begin at multiples of 16 are read several numbers at a time
    capacity = max(16, triton.cdiv(min(CAPACITY, targets.numel()), 16) * 16)
    wide = torch.promote_types(inputs.dtype, torch.float32)
    memory = max(2 * capacity, size // LOGITS_PER_ENTRY)
    tile = TILE if sparse else 4 * TILE
    tiles = triton.cdiv(targets.numel(), tile)
    # the rest is read only where it has been written
    state = logits.new_zeros(fused_order.STATE + memory, dtype=torch.int64)
    places = logits.new_empty((2, capacity), dtype=torch.int64)
    real = logits.new_empty((fused_order.REAL_ROWS, capacity), dtype=wide)
    table = logits.new_empty((fused_rules.WIDE_ROWS, capacity), dtype=torch.float64)
    cells = logits.new_empty(CELLS, dtype=torch.int32)
    marks = cells if sparse else logits.new_empty(tiles * tile // 32, dtype=torch.int32)
    losses = logits.new_empty(RULES[rule], dtype=wide)
    weights = losses.new_zeros(targets.shape) if rule == "alrp" else losses.new_empty(0)
    shape = {"COLUMNS": inputs.shape[-1] if sparse else 1, "SPARSE": sparse}
    few = (min(triton.cdiv(capacity, PAIRS["ROWS"]), FEW),)
    if tiles:
        fused_order.find[(tiles,)](
            logits,
            targets,
            logits if quality is None else quality.detach().contiguous(),
            state,
            places,
            real,
            marks,
            targets.numel(),
            capacity,
            HAS_QUALITY=quality is not None,
            TILE=tile,
            num_warps=4 if sparse else 8,
            **shape,
        )
    fused_order.order[few](state, places, real, capacity, DELTA=float(delta), **PAIRS)
    fused_order.lay_cells[(CELLS // 256,)](state, real, cells, capacity, CELLS=CELLS, TILE=256)
    programs = min(triton.cdiv(size, TILE), PROGRAMS)
    constants = {"DELTA": float(delta), **shape}
    if size:
        fused_streams.tally[(programs,)](
            logits,
            targets,
            marks,
            state,
            real,
            cells,
            size,
            capacity,
            memory,
            CELLS=CELLS,
            TILE=TILE,
            **constants,
        )
        fused_streams.join[(triton.cdiv(2 * capacity, 32),)](
            state,
            real,
            size,
            capacity,
            memory,
            programs,
            TILE=TILE,
            DELTA=float(delta),
            HEIGHT=64,
            WIDTH=32,
            num_warps=8,
        )
    fused_rules.count[few](state, real, table, capacity, RULE=rule, DELTA=float(delta), **PAIRS)
    fused_rules.judge[(1,)](
        state,
        real,
        table,
        losses,
        capacity,
        CAPACITY=CAPACITY,
        RULE=rule,
        DELTA=float(delta),
        TILE=2048,
        num_warps=16,
        sanitize_overflow=False,
    )
    if remember or rule == "alrp":
        fused_rules.hand_out[few](
            state,
            places,
            real,
            table,
            weights,
            capacity,
            COLUMNS=shape["COLUMNS"],
            RULE=rule,
            DELTA=float(delta),
            **PAIRS,
        )
    return losses, weights, FusedState(logits, targets, marks, state, places, real, table, cells, constants)
