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

from boxwright.distributed import all_reduce_sum, world_size
from boxwright.kernels import fused_order, fused_rules, fused_streams
from boxwright.kernels.entries import Scope

__all__ = ["RULES", "FusedRanking", "evaluate"]

# the losses of each rule
RULES = {"ap": 1, "rank_sort": 2, "alrp": 1}
# positives of a process
CAPACITY = 2**15 - 1
# cells over the edges of all groups, and of one at least
CELLS, FEWEST_CELLS = 2**15, 16
TILE = 1024
# blocks at most of a pass over all logits or over pairs of positives
PROGRAMS = 2048
# pairs that a block compares at a time
PAIRS: dict[str, Any] = {"ROWS": 4, "COLS": 512}
# positives that are judged at a time
JUDGED = 2048
# a table entry for so many logits: 8 bytes, to be cleared and added up
LOGITS_PER_ENTRY = 16


def evaluate(
    inputs: Tensor,
    targets: Tensor,
    quality: Tensor | None,
    rule: str,
    delta: float,
    scope: Scope,
    remember: bool,
) -> tuple[Tensor, Tensor, "FusedRanking"]:
    """Return the losses (T,), the weights of the priors (the targets' shape, or empty), and what backward needs."""
    with torch.cuda.device_of(inputs):  # Triton launches on the current device
        ranking = FusedRanking(inputs, targets, delta, scope)
        ranking.find(quality)
        ranking.order()
        ranking.tally()
        return *ranking.judge(rule, remember), ranking


class FusedRanking:
    """A ranking; its memory is O(P + G), half a byte for each logit, and a bit for each dense target.

    Args:
        inputs: (…, C) logits.
        targets: (…) labels or (…, C) qualities.
        delta: half the width of the ramp.
        scope: what is ranked together.

    Attributes:
        processes: that train together.
        partners: those of them whose positives are ranked together.
        room: for positives of a process.
        capacity: room for positives of all partners.
    """

    def __init__(self, inputs: Tensor, targets: Tensor, delta: float, scope: Scope) -> None:
        self.logits, self.targets = inputs.detach().contiguous(), targets.detach().contiguous()
        if targets.dtype == torch.bool:
            self.targets = self.targets.view(torch.uint8)
        self.size, sparse = inputs.numel(), targets.ndim < inputs.ndim
        self.processes = world_size()
        self.partners = 1 if scope == "image" else self.processes
        self.rank = torch.distributed.get_rank() if self.partners > 1 else 0
        # rows that begin at multiples of 16 are read several numbers at a time
        self.room = _sixteens(CAPACITY if self.partners > 1 else min(CAPACITY, targets.numel()))
        self.capacity = self.partners * self.room
        self.memory = max(2 * self.capacity, self.size // LOGITS_PER_ENTRY)
        self.programs = max(1, min(triton.cdiv(self.size, TILE), PROGRAMS))
        self.few = (min(triton.cdiv(self.capacity, PAIRS["ROWS"]), PROGRAMS),)
        self.groups = {"batch": 1, "class": inputs.shape[-1], "image": len(inputs)}[scope] or 1
        self.per_image = self.size // max(len(inputs), 1) or 1
        columns = max(inputs.shape[-1], 1) if sparse or scope == "class" else 1
        self.shape: dict[str, Any] = {"COLUMNS": columns, "SPARSE": sparse, "SCOPE": scope, "TILE": TILE}
        self.ramp: dict[str, Any] = {"DELTA": float(delta), "GROUPED": scope != "batch"}
        self.cells_per_group = max(2 ** ((CELLS // self.groups).bit_length() - 1), FEWEST_CELLS)
        self._allocate(torch.promote_types(inputs.dtype, torch.float32))

    def _allocate(self, dtype: torch.dtype) -> None:
        """Make room; but for the state, nothing is read before it is written."""
        new, shared = self.logits.new_empty, self.partners > 1
        numbers_per_word = 8 // dtype.itemsize
        head = fused_order.HEAD.value
        self.stride = head + self.room + 2 * self.room // numbers_per_word
        sizes = [
            fused_order.STATE,
            _sixteens(2 * self.groups),
            self.partners * self.stride,
            4 * self.capacity if shared else 0,
            self.memory,
        ]
        state = self.logits.new_zeros(sum(sizes), dtype=torch.int64)
        self.state, self.borders, messages, self.sums, self.tables = state.split(sizes)
        self.messages = messages.view(self.partners, self.stride)
        self.places = new(self.capacity, dtype=torch.int64)
        self.spans = new((2, self.capacity), dtype=torch.int32)
        self.real = new((fused_order.REAL_ROWS, self.capacity), dtype=dtype)
        self.wide = new((fused_rules.WIDE_ROWS, self.capacity), dtype=torch.float64)
        self.frames = new((self.groups, 2), dtype=dtype)
        self.cells = new(self.groups * self.cells_per_group, dtype=torch.int64 if shared else torch.int32)
        bits = 0 if self.shape["SPARSE"] else triton.cdiv(self.size, TILE) * TILE
        self.marks = new(bits // 32, dtype=torch.int32)

    def find(self, quality: Tensor | None) -> None:
        """Find the positives, of all partners."""
        if self.size:
            keys, numbers = self._keys_and_numbers(self.messages[self.rank :])
            fused_order.find[(triton.cdiv(self.targets.numel(), TILE),)](
                self.logits,
                self.targets,
                self.logits if quality is None else quality.detach().contiguous(),
                keys,
                numbers,
                self.marks,
                self.targets.numel(),
                self.per_image,
                self.room,
                HAS_QUALITY=quality is not None,
                **self.shape,
            )
        if self.partners > 1:  # each has written a message of its own among zeros
            self.messages = all_reduce_sum(self.messages)

    def order(self) -> None:
        """Put the positives in order, and lay cells over the ends of their ramps."""
        fused_order.order[self.few](
            *self._keys_and_numbers(self.messages),
            self.state,
            self.borders,
            self.places,
            self.spans,
            self.real,
            self.stride,
            self.room,
            self.capacity,
            self.rank,
            PROCESSES=self.partners,
            **self.ramp,
            **PAIRS,
        )
        if self.processes > self.partners:
            active = self.state[fused_order.ACTIVE.value :][:1]
            active.copy_(all_reduce_sum(active))
        tile = min(256, self.cells_per_group)
        fused_order.lay_cells[(len(self.cells) // tile,)](
            self.state,
            self.borders,
            self.real,
            self.frames,
            self.cells,
            self.capacity,
            CELLS=self.cells_per_group,
            TILE=tile,
        )

    def tally(self) -> None:
        """Count the background from edge to edge."""
        fused_streams.tally[(self.programs,)](
            *self._stream(),
            self.tables,
            self.size,
            self.per_image,
            self.capacity,
            self.memory,
            DELTA=self.ramp["DELTA"],
            CELLS=self.cells_per_group,
            **self.shape,
        )
        fused_streams.join[(triton.cdiv(2 * self.capacity, 32),)](
            self.state,
            self.real,
            self.tables,
            self.sums,
            self.size,
            self.capacity,
            self.memory,
            self.programs,
            SHARED=self.partners > 1,
            DELTA=self.ramp["DELTA"],
            TILE=TILE,
            HEIGHT=64,
            WIDTH=32,
            num_warps=8,
        )
        if self.partners > 1:
            self._share_counts()

    def _share_counts(self) -> None:
        """Add up the background of all processes, in integers: number and mean offset from the edge, per edge."""
        number, offset = all_reduce_sum(self.sums).view(2, -1).double()
        mean = offset / number.clamp(min=1) * (2 * self.ramp["DELTA"] / 2**fused_streams.FRACTION.value)
        for row, values in ((fused_order.COUNT, number), (fused_order.OFFSET, mean)):
            self.real[row.value : row.value + 2].view(-1).copy_(values)

    def judge(self, rule: str, remember: bool) -> tuple[Tensor, Tensor]:
        """Apply a rule; return the losses (T,), and the weights of the priors (the targets' shape, or empty)."""
        losses = self.real.new_empty(RULES[rule])
        weights = losses.new_zeros(self.targets.shape) if rule == "alrp" else losses.new_empty(0)
        fused_rules.count[self.few](
            self.state,
            self.spans,
            self.real,
            self.wide,
            self.capacity,
            self.processes,
            RULE=rule,
            **self.ramp,
            **PAIRS,
        )
        fused_rules.judge[(1,)](
            self.state,
            self.spans,
            self.real,
            self.wide,
            losses,
            self.capacity,
            self.processes,
            self.partners,
            CAPACITY=CAPACITY,
            RULE=rule,
            TILE=JUDGED,
            num_warps=16,
            sanitize_overflow=False,
            **self.ramp,
        )
        if remember or rule == "alrp":
            fused_rules.hand_out[self.few](
                self.state,
                self.places,
                self.spans,
                self.real,
                self.wide,
                weights,
                self.capacity,
                COLUMNS=self.shape["COLUMNS"] if self.shape["SPARSE"] else 1,
                RULE=rule,
                **self.ramp,
                **PAIRS,
            )
        return losses, weights

    def gradient(self, upstream: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
        """Gradient of the losses weighed by `upstream`, in the shape of the logits."""
        gradient = torch.empty_like(self.logits, dtype=dtype)
        if self.size:
            with torch.cuda.device_of(gradient):
                self._write(upstream, gradient)
        return gradient

    def _write(self, upstream: Sequence[Tensor], gradient: Tensor) -> None:
        fused_streams.write[(self.programs,)](
            *self._stream(),
            upstream[0],
            gradient,
            self.size,
            self.per_image,
            self.capacity,
            DELTA=self.ramp["DELTA"],
            CELLS=self.cells_per_group,
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

    def _stream(self) -> tuple[Tensor, ...]:
        return self.logits, self.targets, self.marks, self.state, self.real, self.frames, self.cells

    def _keys_and_numbers(self, messages: Tensor) -> tuple[Tensor, Tensor]:
        """Return where the keys begin in messages, and where their scores and qualities do."""
        keys = messages[:, fused_order.HEAD.value :]
        return keys, keys[:, self.room :].view(self.real.dtype)


def _sixteens(size: int) -> int:
    """Size rounded up to a multiple of 16, and at least that."""
    return max(16, triton.cdiv(size, 16) * 16)
