"""What is ranked: logits, and which of them are positive, background or ignored."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

__all__ = ["CAPACITY", "FREE", "IGNORED", "Entries", "Scope"]

Scope = Literal["batch", "class", "image"]

IGNORED = -2
# positives of a process on a device whose number of positives nobody waits for
CAPACITY = 2**15 - 1
# score of the places that are free: below all others, so that it counts above none
FREE = -torch.finfo(torch.float32).max


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Logits as (R, C) with what each is: positive, background or ignored.

    Attributes:
        logits: (R, C), detached and contiguous.
        targets: (R,) labels, or (R, C) qualities: positive, 0 for background, negative for ignored.
        positive: (P,) flat index of the positives, ascending; R C where `padded` leaves a place free.
        groups: how many groups there are here.
        scope: what makes a group.
        rows_per_image: R over the number of images.
        padded: whether P is a capacity; where there are several groups, the free places make one more of their own.
        dtype: what is computed in.
        bits: (⌈R C / 32⌉,) int32, which entries of dense targets are background; only where `padded`.
    """

    logits: Tensor
    targets: Tensor
    positive: Tensor
    groups: int
    scope: Scope
    rows_per_image: int
    padded: bool
    dtype: torch.dtype
    bits: Tensor | None

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, scope: Scope, capacity: int | None = None) -> Self:
        """Sort out inputs (…, C) by targets (…) or (…, C).

        Args:
            inputs: the logits.
            targets: labels or qualities.
            scope: what makes a group.
            capacity: how many positives to make room for, without waiting for their number, where there is Triton;
                None to wait for it.
        """
        sparse = targets.ndim < inputs.ndim
        rows, columns = inputs.shape[:-1].numel(), inputs.shape[-1]
        if not sparse and scope == "batch":
            rows, columns = inputs.numel(), 1
        logits = inputs.detach().reshape(rows, columns).contiguous()
        goal = targets.detach().reshape(rows if sparse else (rows, columns)).contiguous()
        bits = None
        if capacity is not None:
            from boxwright.kernels.fused_positives import find

            place, bits = find(goal.view(-1), sparse, capacity)
        elif sparse:
            place = (goal >= 0).nonzero().view(-1)
        else:
            place = _sparse_positives(goal.view(-1))
        positive = place * columns + _pick(goal, place, capacity is not None) if sparse else place
        groups = {"batch": 1, "class": columns, "image": len(inputs)}[scope] or 1
        per_image = len(logits) // max(len(inputs), 1) or 1
        wide = torch.promote_types(inputs.dtype, torch.float32)
        return cls(logits, goal, positive, groups, scope, per_image, capacity is not None, wide, bits)

    @property
    def sparse(self) -> bool:
        """Whether targets are labels."""
        return self.targets.ndim == 1

    def at_positives(self, values: Tensor) -> Tensor:
        """Pick (P,) what belongs to the positives from values of the logits' or the targets' size; 0 at free places."""
        flat = values.detach().reshape(-1)
        place = self.positive
        if self.sparse and flat.shape == self.targets.shape:
            place = place // self.logits.shape[1]
        return _pick(flat, place, self.padded)

    def scores(self) -> Tensor:
        """(P,) logits of the positives; FREE at free places, or 0 where these are a group of their own."""
        scores = self.at_positives(self.logits).to(self.dtype)
        if self.padded and self.scope == "batch":
            scores.masked_fill_(self.positive == self.logits.numel(), FREE)
        return scores

    def group(self) -> Tensor | None:
        """(P,) group of each positive; None where there is one."""
        columns = self.logits.shape[1]
        if self.scope == "batch":
            return None
        group = self.positive % columns if self.scope == "class" else self.positive // (columns * self.rows_per_image)
        return group.masked_fill_(self.positive == self.logits.numel(), self.groups) if self.padded else group

    def groups_of(self, rows: slice) -> Tensor:
        """(r, C) group of each entry of some rows, int32."""
        device, columns = self.logits.device, self.logits.shape[1]
        row = torch.arange(rows.start, min(rows.stop, len(self.logits)), dtype=torch.int32, device=device)
        if self.scope == "class":
            return torch.arange(self.groups, dtype=torch.int32, device=device).repeat(len(row), 1)
        return (row // self.rows_per_image).unsqueeze(1).repeat(1, columns)


def _pick(values: Tensor, place: Tensor, padded: bool) -> Tensor:
    """Values (N,) at places (P,), of which N stands for none, where there is 0."""
    if not padded:
        return values.index_select(0, place)
    if not len(values):
        return values.new_zeros(len(place))
    picked = values.index_select(0, place.clamp(max=len(values) - 1))
    return picked.masked_fill_(place == len(values), 0)


def _sparse_positives(values: Tensor, block: int = 512) -> Tensor:
    """Ascending indices of what is positive in (N,): looks closely only at the few blocks that hold any."""
    whole = len(values) // block * block
    blocks = values[:whole].view(-1, block)
    # where one is no number, so is the largest
    hit = (~(blocks.amax(1) <= 0)).nonzero().view(-1)
    inside = (blocks[hit] > 0).nonzero()
    rest = (values[whole:] > 0).nonzero().view(-1) + whole
    return torch.cat([hit[inside[:, 0]] * block + inside[:, 1], rest])
