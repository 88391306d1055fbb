"""The small parts that every loss on a grid of cells and anchors is made of.

A head's output (B, A (5 + C), H, W) is read as N = A H W slots with 5 + C channels x, y, w, h, objectness, classes.
Objects are (B, G, 4) centre and size as fractions of the image, with a mask of those that are real. Positions and
sizes inside are in cells. Nothing here loops over images or objects or depends on their number's value.
"""

from typing import Final, NamedTuple

import torch
from torch import Tensor

from boxwright.boxes.formats import cxcywh_to_xyxy
from boxwright.boxes.iou import box_iou
from boxwright.losses.reduction import check_labels, check_shape

__all__ = [
    "CellTargets",
    "Grid",
    "at_owner",
    "best_overlap",
    "centered_iou",
    "decode_cells",
    "encode_objects",
    "last_owner",
    "one_hot",
    "own_cell",
    "read_cells",
    "read_objects",
    "slot_of",
    "summed_classes",
]

# keeps the logarithm of a box without area finite
TINY: Final = 1e-16
# exp(20) cells is further than any box, and its area is still a float32
LARGEST_LOG: Final = 20.0
# predictions whose overlaps with all objects are held at a time
BLOCK: Final = 4096


class Grid(NamedTuple):
    """Shape of a head's output: anchors per cell, rows, columns."""

    anchors: int
    height: int
    width: int

    @property
    def slots(self) -> int:
        """Number of predictions per image."""
        return self.anchors * self.height * self.width


class CellTargets(NamedTuple):
    """What every slot should have said, and how much that matters; all detached.

    Attributes:
        xy: (B, N, 2) place of the centre within its cell, 0..1.
        wh: (B, N, 2) logarithm of the size over the anchor's.
        box_weight: (B, N).
        objectness: (B, N) in 0..1.
        objectness_weight: (B, N).
        classes: (B, N, C) one for every class that the slot is responsible for.
        class_weight: (B, N).
    """

    xy: Tensor
    wh: Tensor
    box_weight: Tensor
    objectness: Tensor
    objectness_weight: Tensor
    classes: Tensor
    class_weight: Tensor


def read_cells(output: Tensor, anchors: Tensor) -> tuple[Tensor, Grid]:
    """Turn a head's output (B, A (5 + C), H, W) into slots (B, N, 5 + C), anchor by anchor, then row, then column.

    Raises:
        ValueError: the channels do not divide by the anchors (A, 2), or fewer than 5 channels are left for each.
    """
    count = len(anchors)
    if output.ndim != 4 or output.shape[1] % count or output.shape[1] // count < 5:
        raise ValueError(
            f"output must be (B, A (5 + C), H, W) with A = {count} anchors, got {tuple(output.shape)}; "
            "do the anchors belong to this layer?"
        )
    images, channels, height, width = output.shape
    grid = Grid(count, height, width)
    cells = output.view(images, count, channels // count, height, width).permute(0, 1, 3, 4, 2)
    return cells.reshape(images, grid.slots, channels // count), grid


def read_objects(cells: Tensor, boxes: Tensor, labels: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Return boxes (B, G, 4) in the dtype of slots (B, N, 5 + C), and labels (B, G); zeros where `valid` (B, G) is not.

    What an entry without an object holds, be it NaN or a label of -1, so never counts.

    Raises:
        TypeError: valid is not bool.
        ValueError: shapes that do not fit, or the label of an object that is no class (on the CPU).
    """
    if boxes.ndim != 3 or (len(boxes), boxes.shape[2]) != (len(cells), 4):
        raise ValueError(f"boxes must have shape ({len(cells)}, G, 4), got {tuple(boxes.shape)}")
    check_shape("labels", labels, boxes.shape[:-1])
    check_shape("valid", valid, boxes.shape[:-1])
    if valid.dtype != torch.bool:
        raise TypeError(f"valid must be bool, got {valid.dtype} of shape {tuple(valid.shape)}")
    labels = torch.where(valid, labels, 0)
    check_labels(labels, 0, cells.shape[-1] - 5)
    return torch.where(valid.unsqueeze(-1), boxes.to(cells), 0), labels


def own_cell(grid: Grid, device: torch.device) -> Tensor:
    """Column and row (N, 2) of every slot."""
    rows, columns = torch.meshgrid(
        torch.arange(grid.height, device=device), torch.arange(grid.width, device=device), indexing="ij"
    )
    return torch.stack([columns, rows], dim=-1).view(-1, 2).repeat(grid.anchors, 1)


def decode_cells(cells: Tensor, anchors: Tensor, grid: Grid) -> Tensor:
    """Predicted boxes (B, N, 4), centre and size in cells, of raw slots (B, N, ≥ 4) with anchors (A, 2) in cells."""
    center = cells[..., :2].sigmoid() + own_cell(grid, cells.device)
    size = cells[..., 2:4].clamp(max=LARGEST_LOG).exp() * _per_slot(anchors, grid)
    return torch.cat([center, size], dim=-1)


def _per_slot(anchors: Tensor, grid: Grid) -> Tensor:
    """Anchor (N, 2) of every slot."""
    return anchors.repeat_interleave(grid.height * grid.width, dim=0)


def centered_iou(sizes: Tensor, others: Tensor, offset: float = 0.0) -> Tensor:
    """IoU (…) of boxes of two sizes (…, 2) that share their centre; `offset` as in `box_iou`."""
    sizes, others = sizes + offset, others + offset
    inner = torch.minimum(sizes, others).prod(-1)
    union = sizes.prod(-1) + others.prod(-1) - inner
    return inner / union.clamp(min=TINY)


def best_overlap(predicted: Tensor, objects: Tensor, valid: Tensor) -> tuple[Tensor, Tensor]:
    """Largest IoU (B, N) of each predicted box with an object of its image, and that object's index (B, N).

    Args:
        predicted: (B, N, 4) centre and size.
        objects: (B, G, 4) in the same units.
        valid: (B, G) bool, objects that are real. Without any the overlap is 0.
    """
    if objects.shape[1] == 0:
        return predicted.new_zeros(predicted.shape[:2]), valid.new_zeros(predicted.shape[:2], dtype=torch.int64)
    corners = cxcywh_to_xyxy(objects)
    overlap, index = zip(
        *(
            (box_iou(block, corners, eps=TINY) * valid.unsqueeze(1)).max(dim=-1)
            for block in cxcywh_to_xyxy(predicted).split(BLOCK, dim=1)
        ),
        strict=True,
    )
    return torch.cat(overlap, dim=1), torch.cat(index, dim=1)


def slot_of(objects: Tensor, anchor: Tensor, grid: Grid) -> Tensor:
    """Slot (B, G, …) of objects (B, G, 4) in cells for anchor indices (B, G, …): the cell that holds the centre."""
    column, row = objects[..., 0].long().clamp(0, grid.width - 1), objects[..., 1].long().clamp(0, grid.height - 1)
    cell = row * grid.width + column
    return anchor * (grid.height * grid.width) + cell.view(*cell.shape, *(1,) * (anchor.ndim - cell.ndim))


def last_owner(slot: Tensor, claims: Tensor, slots: int) -> Tensor:
    """Index (B, slots) of the last object that claims a slot, -1 where none does.

    Args:
        slot: (B, G) slot of every object.
        claims: (B, G) bool, which objects claim theirs.
        slots: number of slots.
    """
    order = torch.arange(slot.shape[1], device=slot.device)
    owner = torch.full((len(slot), slots), -1, device=slot.device)
    return owner.scatter_reduce(1, slot, torch.where(claims, order, -1), "amax")


def at_owner(values: Tensor, owner: Tensor) -> Tensor:
    """What (B, N, …) of objects (B, G, …) at the object that owns each slot; zeros where nobody does."""
    if values.shape[1] == 0:
        return values.new_zeros(*owner.shape, *values.shape[2:])
    trailing = (1,) * (values.ndim - 2)
    index = owner.clamp(min=0).view(*owner.shape, *trailing).expand(*owner.shape, *values.shape[2:])
    return values.gather(1, index) * (owner >= 0).view(*owner.shape, *trailing)


def encode_objects(objects: Tensor, owner: Tensor, anchors: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Targets xy and wh (B, N, 2) of the slots that an object (B, G, 4; in cells) owns."""
    target = at_owner(objects, owner)
    xy = target[..., :2] - own_cell(grid, objects.device)
    wh = (target[..., 2:] / _per_slot(anchors, grid) + TINY).log()
    return xy, wh


def summed_classes(slot: Tensor, labels: Tensor, claims: Tensor, slots: int, classes: int) -> Tensor:
    """One (B, slots, classes) for every class of any object that claims a slot; arguments as `last_owner`."""
    target = torch.zeros(len(slot), slots * classes, device=slot.device)
    target = target.scatter_reduce(1, slot * classes + labels, claims.to(target.dtype), "amax")
    return target.view(len(slot), slots, classes)


def one_hot(labels: Tensor, classes: int) -> Tensor:
    """(…, classes) bool of labels (…), without looking at their values on the host."""
    return labels.unsqueeze(-1) == torch.arange(classes, device=labels.device)
