"""Assignment by grid cell: the cell that holds an object's centre is responsible, with the anchor of the best shape."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from boxwright.assigners.blocks import clean_boxes, no_matches
from boxwright.assigners.options import check_options
from boxwright.assigners.overlaps import best_objects
from boxwright.assigners.regions import covered_by_crowd
from boxwright.assigners.select import match
from boxwright.boxes import shape_iou, xyxy_to_cxcywh
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Level, Predictions, Priors, Targets

__all__ = ["RatioGridAssigner", "YOLOAssigner"]


@dataclass(frozen=True, slots=True)
class YOLOAssigner:
    """YOLOv2 and v3: one prior per object, the anchor whose shape overlaps it most, in the cell of its centre.

    The best shape (the first on ties) is sought among all anchors of all levels; where two objects want the same prior,
    the last one has it, as in darknet. Priors that do well without being responsible are ignored instead of background.
    Scores are 1. Redmon & Farhadi 2017, arXiv 1612.08242, and 2018, arXiv 1804.02767.

    Attributes:
        ignore_iou: overlap above which a prior that is not responsible is ignored (0.6 in YOLOv2; 0.5 or 0.7 in v3).
        ignore_by: "prediction" compares the decoded box with every object, as darknet does; "shape" the other anchors
            in an object's cell with its shape, as the first PyTorch ports of v3 do, and needs no predictions.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    ignore_iou: float = 0.5
    ignore_by: Literal["prediction", "shape"] = "prediction"
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once.

        Raises:
            ValueError: the priors are no grid, or `ignore_by="prediction"` and there are no decoded boxes.
        """
        levels = _levels(priors)
        predicted = _decoded(predictions) if self.ignore_by == "prediction" else None
        boxes = clean_boxes(targets.boxes, targets.objects)
        covered = covered_by_crowd(priors, targets, self.ignore_threshold)
        if (nothing := no_matches(boxes, covered)) is not None:
            return nothing
        slots, shapes = _own_cells(levels, boxes)
        overlap = shape_iou(xyxy_to_cxcywh(boxes)[..., 2:], shapes)  # (B, G, A)
        if predicted is None:
            near = match(slots, overlap, overlap > self.ignore_iou, len(priors)) >= 0
        else:
            near = best_objects(boxes, clean_boxes(predicted))[0] > self.ignore_iou
        index = torch.where(near, IGNORED, BACKGROUND)
        slot = slots.gather(2, overlap.argmax(dim=2, keepdim=True)).squeeze(2)
        number = torch.arange(boxes.shape[1], device=boxes.device).where(targets.objects, IGNORED)
        index = index.scatter_reduce(1, slot, number, "amax").masked_fill(covered, IGNORED)
        return Assignment(index, (index >= 0).to(torch.float32))


@dataclass(frozen=True, slots=True)
class RatioGridAssigner:
    """YOLOv5: every anchor within a factor of the object's width and height, in its cell and the two nearest ones.

    The neighbours are left or right and above or below, whichever the centre is nearer to, inside the grid. Where two
    objects want one prior, the one with the smaller factor has it, the lowest index on ties (the original leaves it to
    the order of writes). Scores are 1. Jocher et al. 2020 (no paper); the neighbours are Zheng Ge's suggestion there.

    Attributes:
        max_ratio: factor between a side of the object and the anchor's, exclusive.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    max_ratio: float = 4.0
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        if not self.max_ratio > 1:
            raise ValueError(f"max_ratio must be above 1, the factor of an anchor that fits, got {self.max_ratio}")

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once; predictions are not looked at.

        Raises:
            ValueError: the priors are no grid.
        """
        levels, boxes = _levels(priors), clean_boxes(targets.boxes, targets.objects)
        covered = covered_by_crowd(priors, targets, self.ignore_threshold)
        if (nothing := no_matches(boxes, covered)) is not None:
            return nothing
        center, size = xyxy_to_cxcywh(boxes).split(2, dim=-1)
        index, quality, chosen = [], [], []
        for start, level, shape in levels:
            ratio = size.unsqueeze(2) / shape  # (B, G, A, 2)
            factor = torch.maximum(ratio, 1 / ratio).amax(dim=-1, keepdim=True)  # (B, G, A, 1)
            cells, inside = _near_cells(center / level.stride - level.offset + 0.5, level)  # (B, G, 5, 2), (B, G, 5)
            wanted = (factor < self.max_ratio) & inside.unsqueeze(2)  # (B, G, A, 5); what is no object has no size
            slots = _slots(cells, start, level).transpose(2, 3)  # (B, G, A, 5)
            index.append(slots.flatten(2))
            chosen.append(wanted.flatten(2))
            quality.append((1 / factor).expand_as(wanted).flatten(2))
        owner = match(torch.cat(index, 2), torch.cat(quality, 2), torch.cat(chosen, 2), len(priors))
        owner = owner.masked_fill(covered, IGNORED)
        return Assignment(owner, (owner >= 0).to(torch.float32))


def _decoded(predictions: Predictions | None) -> Tensor:
    if predictions is None or predictions.boxes is None:
        raise ValueError('ignore_by="prediction" compares predicted boxes: pass `predictions` with `boxes`')
    return predictions.boxes


def _levels(priors: Priors) -> list[tuple[int, Level, Tensor]]:
    """Return of each level that has priors the index of the first, the grid, and the sizes (A, 2) of the anchors."""
    if not priors.levels or priors.boxes.ndim != 2:
        raise ValueError("priors must lie on grids (Priors.levels) to be assigned by cell; proposals do not")
    found, start = [], 0
    for level in priors.levels:
        if level.size:
            cell = priors.boxes[start : start + level.per_cell].float()
            found.append((start, level, cell[:, 2:] - cell[:, :2]))
        start += level.size
    return found


def _own_cells(levels: list[tuple[int, Level, Tensor]], boxes: Tensor) -> tuple[Tensor, Tensor]:
    """Priors in the cells of the objects' centres, (B, G, A) over the anchors of all levels, and sizes (A, 2)."""
    center = xyxy_to_cxcywh(boxes)[..., :2]
    slots, shapes = [], []
    for start, level, shape in levels:
        cell = _inside(center / level.stride - level.offset + 0.5, level)
        slots.append(_slots(cell, start, level))
        shapes.append(shape)
    return torch.cat(slots, dim=-1), torch.cat(shapes)


def _slots(cell: Tensor, start: int, level: Level) -> Tensor:
    """Indices (…, A) of the priors in the cells of positions (…, 2), x and y."""
    x, y = cell.long().unbind(-1)
    anchor = torch.arange(level.per_cell, device=cell.device)
    return (start + (y * level.width + x) * level.per_cell).unsqueeze(-1) + anchor


def _near_cells(position: Tensor, level: Level) -> tuple[Tensor, Tensor]:
    """Own, left, upper, right and lower cell (B, G, 5, 2) of positions (B, G, 2) in cells, and which are near."""
    x, y = position.unbind(-1)
    right, below = level.width - x, level.height - y
    near = [(side % 1 < 0.5) & (side > 1) for side in (x, y, right, below)]
    columns = torch.stack([x, x - 0.5, x, x + 0.5, x], dim=-1)
    rows = torch.stack([y, y, y - 0.5, y, y + 0.5], dim=-1)
    return _inside(torch.stack([columns, rows], dim=-1), level), torch.stack([torch.ones_like(near[0]), *near], dim=-1)


def _inside(cell: Tensor, level: Level) -> Tensor:
    """Clamp positions (…, 2) in cells: a centre on the border, or an object beyond the grid, is still somebody's."""
    x, y = cell.unbind(-1)
    return torch.stack([x.clamp(0, level.width - 1), y.clamp(0, level.height - 1)], dim=-1)
