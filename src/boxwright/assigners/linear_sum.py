"""The linear sum assignment problem for a padded batch."""

from typing import Literal

import torch
from torch import Tensor

from boxwright.devices import widest
from boxwright.extras import needs_extra

__all__ = ["linear_sum_assignment"]


def linear_sum_assignment(cost: Tensor, valid: Tensor, solver: Literal["scipy", "batched"] = "scipy") -> Tensor:
    """Give every valid row its own column so that the sum of costs is least.

    Args:
        cost: (B, R, C) finite.
        valid: (B, R) bool, rows that take part; if there are more than C, C of them get a column.
        solver: "scipy" copies the costs to the host and solves image by image (Crouse 2016); "batched" finds the
            shortest augmenting paths (Jonker & Volgenant 1987) of all images in step, on their device in its `widest`
            type: as many steps as the longest path of any image, each of a few kernels over (B, C).

    Returns:
        (B, R) int64: the column of each row, -1 where it has none.

    Raises:
        BoxwrightError: SciPy is not installed, which "scipy" needs.

    >>> linear_sum_assignment(torch.tensor([[[4.0, 1.0], [2.0, 0.0]]]), torch.tensor([[True, True]]), "batched")
    tensor([[1, 0]])
    """
    columns: Tensor = _solve(cost, valid, solver)
    return columns


# one operator, as how often it looks at values can be traced neither by a compiler nor by `torch.func`
@torch.library.custom_op("boxwright::linear_sum_assignment", mutates_args=())
def _solve(cost: Tensor, valid: Tensor, solver: str) -> Tensor:
    if cost.numel() == 0:
        return torch.full(valid.shape, -1, dtype=torch.int64, device=cost.device)
    return _scipy(cost, valid) if solver == "scipy" else _batched(cost, valid).contiguous()


@_solve.register_fake
def _(cost: Tensor, valid: Tensor, solver: str) -> Tensor:
    return torch.empty(valid.shape, dtype=torch.int64, device=cost.device)


def _scipy(cost: Tensor, valid: Tensor) -> Tensor:
    with needs_extra("train"):
        from scipy.optimize import linear_sum_assignment as solve

    columns = torch.full(valid.shape, -1, dtype=torch.int64, device="cpu")
    for image, (image_cost, rows) in enumerate(zip(cost.cpu().double(), valid.cpu(), strict=True)):
        where = rows.nonzero().squeeze(1)
        row, column = solve(image_cost[where].numpy())
        columns[image, where[torch.from_numpy(row)]] = torch.from_numpy(column)
    return columns.to(cost.device)


def _batched(cost: Tensor, valid: Tensor) -> Tensor:
    """Insert row after row, in all images at once, along the shortest augmenting path."""
    images, rows, columns = cost.shape
    spare = max(rows - columns, 0)  # columns that stand for "none", dearer than any exchange of the real ones
    cost = cost.to(widest(cost.device))
    dear = 1 + rows * (cost.amax() - cost.amin())
    cost = torch.cat([cost, (cost.amax() + dear).expand(images, rows, spare)], dim=2)
    row_of = cost.new_full((images, columns + spare), -1, dtype=torch.int64)
    potential = cost.new_zeros(images, columns + spare)
    for row in range(rows):
        row_of, potential = _insert(cost, row_of, potential, row, valid[:, row])
    table = row_of.new_full((images, rows + 1), -1)
    number = torch.arange(columns + spare, device=cost.device)
    number = torch.where(number < columns, number, -1).expand_as(row_of)
    return table.scatter(1, row_of % (rows + 1), number)[:, :-1]  # -1, a column without row, lands in the last place


def _insert(cost: Tensor, row_of: Tensor, potential: Tensor, row: int, active: Tensor) -> tuple[Tensor, Tensor]:
    """Augment the matching `row_of` (B, C) with `row` where `active` (B,); `potential` (B, C) are the column duals."""
    images, columns = row_of.shape
    image = torch.arange(images, device=cost.device)
    shortest = cost.new_full((images, columns), torch.inf)  # length of the shortest path to each column
    before = row_of.new_full((images, columns), -1)  # the row from which that path enters the column
    reached = torch.zeros_like(row_of, dtype=torch.bool)
    length, at, end = cost.new_zeros(images), row_of.new_full((images,), row), row_of.new_full((images,), -1)
    entry = cost.new_zeros(images)  # reduced cost of the edge that is matched to the current row
    searching = active
    while bool(searching.any()):
        step = length.unsqueeze(1) + cost[image, at] - potential - entry.unsqueeze(1)
        better = ~reached & (step < shortest) & searching.unsqueeze(1)
        shortest = torch.where(better, step, shortest)
        before = torch.where(better, at.unsqueeze(1), before)
        nearest, column = shortest.masked_fill(reached, torch.inf).min(dim=1)
        length = torch.where(searching, nearest, length)
        reached[image, column] |= searching
        owner = row_of[image, column]
        end = torch.where(searching & (owner < 0), column, end)
        searching = searching & (owner >= 0)
        at = torch.where(searching, owner, at)
        entry = torch.where(searching, cost[image, at, column] - potential[image, column], entry)
    potential = torch.where(reached, potential + shortest - length.unsqueeze(1), potential)
    return _augment(row_of, before, end, row, active), potential


def _augment(row_of: Tensor, before: Tensor, end: Tensor, row: int, active: Tensor) -> Tensor:
    """Shift the rows along the path that ends in column `end` (B,), back to the inserted row."""
    row_of = row_of.clone()
    image = torch.arange(len(row_of), device=row_of.device)
    column = end.clamp(min=0)
    while bool(active.any()):
        mover = before[image, column]
        held = row_of == mover.unsqueeze(1)  # the column that the moving row leaves, if it had one
        row_of[image, column] = torch.where(active, mover, row_of[image, column])
        active = active & (mover != row)
        column = torch.where(active, held.to(torch.int8).argmax(dim=1), column)
    return row_of
