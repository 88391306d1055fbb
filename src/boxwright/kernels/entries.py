"""What is ranked: logits, and which of them are positive, background or ignored."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

__all__ = ["IGNORED", "Entries", "Scope"]

Scope = Literal["batch", "class", "image"]

IGNORED = -2


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """Logits as (R, C) with what each is: positive, background or ignored.

    Attributes:
        logits: (R, C), detached and contiguous.
        targets: (R,) labels, or (R, C) qualities: positive, 0 for background, negative for ignored.
        positive: (P,) flat index of the positives, ascending.
        groups: how many groups there are here.
        scope: what makes a group.
        rows_per_image: R over the number of images.
        dtype: what is computed in.
    """

    logits: Tensor
    targets: Tensor
    positive: Tensor
    groups: int
    scope: Scope
    rows_per_image: int
    dtype: torch.dtype

    @classmethod
    def of(cls, inputs: Tensor, targets: Tensor, scope: Scope) -> Self:
        """Sort out inputs (…, C) by targets (…), labels, or (…, C), qualities."""
        sparse = targets.ndim < inputs.ndim
        rows, columns = inputs.shape[:-1].numel(), inputs.shape[-1]
        if not sparse and scope == "batch":
            rows, columns = inputs.numel(), 1
        logits = inputs.detach().reshape(rows, columns).contiguous()
        goal = targets.detach().reshape(rows if sparse else (rows, columns)).contiguous()
        if sparse:
            place = (goal >= 0).nonzero().view(-1)
            positive = place * columns + goal[place]
        else:
            positive = _sparse_positives(goal.view(-1))
        groups = {"batch": 1, "class": columns, "image": len(inputs)}[scope] or 1
        per_image = len(logits) // max(len(inputs), 1) or 1
        wide = torch.promote_types(inputs.dtype, torch.float32)
        return cls(logits, goal, positive, groups, scope, per_image, wide)

    @property
    def sparse(self) -> bool:
        """Whether targets are labels."""
        return self.targets.ndim == 1

    def at_positives(self, values: Tensor) -> Tensor:
        """Pick (P,) what belongs to the positives from values of the logits' or the targets' size."""
        flat = values.detach().reshape(-1)
        place = self.positive
        if self.sparse and flat.shape == self.targets.shape:
            place = place // self.logits.shape[1]
        return flat.index_select(0, place)

    def scores(self) -> Tensor:
        """(P,) logits of the positives."""
        return self.at_positives(self.logits).to(self.dtype)

    def group(self) -> Tensor | None:
        """(P,) group of each positive; None where there is one."""
        columns = self.logits.shape[1]
        if self.scope == "batch":
            return None
        return self.positive % columns if self.scope == "class" else self.positive // (columns * self.rows_per_image)

    def groups_of(self, rows: slice) -> Tensor:
        """(r, C) group of each entry of some rows, int32."""
        device, columns = self.logits.device, self.logits.shape[1]
        row = torch.arange(rows.start, min(rows.stop, len(self.logits)), dtype=torch.int32, device=device)
        if self.scope == "class":
            return torch.arange(self.groups, dtype=torch.int32, device=device).repeat(len(row), 1)
        return (row // self.rows_per_image).unsqueeze(1).repeat(1, columns)


def _sparse_positives(values: Tensor, block: int = 512) -> Tensor:
    """Ascending indices of what is positive in (N,): looks closely only at the few blocks that hold any."""
    whole = len(values) // block * block
    blocks = values[:whole].view(-1, block)
    # where one is no number, so is the largest
    hit = (~(blocks.amax(1) <= 0)).nonzero().view(-1)
    inside = (blocks[hit] > 0).nonzero()
    rest = (values[whole:] > 0).nonzero().view(-1) + whole
    return torch.cat([hit[inside[:, 0]] * block + inside[:, 1], rest])
