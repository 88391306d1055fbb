"""Annotated objects that a network or another annotation speaks against, and why: a list for relabelling."""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from boxwright.boxes import box_iou
from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.sides import FOUND, Peaks, Sides, excess_spread, peaks
from boxwright.study.inspection.unlabelled import SHOWN

__all__ = ["REASONS", "TWO_PEAKS", "WIDE", "Suspects"]

REASONS: Final = ("double box", "other class", "not seen", "drawn elsewhere", "two peaks", "flat")
WIDE: Final = 0.25  # of the object's length: a side so far from the predicted one, or so spread, is suspicious
TWO_PEAKS: Final = 0.05  # how far a second peak rises above the valley before it, to be called one


@dataclass(frozen=True, eq=False, slots=True)
class Suspects:
    """The N objects of a data set with the reasons to look at their annotation again, the most suspicious first.

    | reason | the object has it if | the more suspicious |
    |---|---|---|
    | double box | another object of its class has a larger IoU with it than two detections may | the IoU |
    | other class | the network gives another class a higher score there | the difference |
    | not seen | no predicted box of its class with an IoU of `FOUND` has a score of `SHOWN` | 1 - the score |
    | drawn elsewhere | a side lies more than `WIDE` of the object's length from the predicted one | the distance |
    | two peaks | a second peak rises more than `TWO_PEAKS` above the valley between it and the highest | that height |
    | flat | the excess spread of a side is more than `WIDE` of the object's length | the spread |

    Every reason makes a list. They are dealt out in turn: the first of each, then the second of each, and so on, each
    object where it comes first. So no reason has to be weighed against another. Objects without a reason follow, dealt
    out likewise. The last three reasons are about the predicted box, and need one that is the object's.

    Attributes:
        order: (N,) rows of the objects, the most suspicious first.
        reasons: (N, R) bool, which of `REASONS` an object has.
        twin: (N,) largest IoU with another object of the class.
        offset: (N, 4) distance of each side from the predicted one over the object's length across it.
        spread: (N, 4) excess spread of each side over that length.
        peaks: of (N, 4), in input pixels.
        sides: what the network says.
    """

    order: Tensor
    reasons: Tensor
    twin: Tensor
    offset: Tensor
    spread: Tensor
    peaks: Peaks
    sides: Sides

    @classmethod
    def of(cls, inputs: Inputs, sides: Sides, duplicate: float) -> Self:
        """Rank the objects of a data set; `duplicate` is the IoU above which the run suppresses a detection."""
        boxes = torch.from_numpy(inputs.boxes)
        length = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2).clamp(min=1)
        offset = (sides.boxes - boxes).abs() / length
        spread = excess_spread(sides.probability, sides.outwards()) / length
        two, twin = peaks(sides.probability, sides.place), _twins(inputs)
        found = (sides.iou >= FOUND).unsqueeze(1)
        own = (values.where(found, -1.0).amax(1) for values in (offset, two.prominence, spread))
        measures = torch.stack([twin, sides.rival - sides.seen, -sides.seen, *own], dim=1)
        reasons = measures > torch.tensor([duplicate, 0.0, -SHOWN, WIDE, TWO_PEAKS, WIDE])
        return cls(_dealt(measures, reasons), reasons, twin, offset, spread, two, sides)


def _dealt(measures: Tensor, reasons: Tensor) -> Tensor:
    """Deal the lists of measures (N, R) out in turn, those with a reason first: rows (N,)."""
    objects, lists = measures.shape
    column = measures.T.contiguous()
    below = torch.searchsorted(column.sort(1).values, column).T
    turn = (objects - below) * lists + torch.arange(lists)  # all of equal measure have the last place among them
    return (turn + (~reasons) * (objects + 1) * lists).amin(1).argsort(stable=True)


def _twins(inputs: Inputs) -> Tensor:
    """Largest IoU of each object with another one of its class in its image, 0 where there is none: (N,)."""
    most = torch.zeros(len(inputs))
    boxes, labels = torch.from_numpy(inputs.boxes), torch.from_numpy(inputs.labels)
    for start, stop in zip(inputs.first[:-1].tolist(), inputs.first[1:].tolist(), strict=True):
        if stop - start > 1:
            rows = slice(start, stop)
            iou = box_iou(boxes[rows], boxes[rows]).fill_diagonal_(0)
            most[rows] = (iou * (labels[rows, None] == labels[rows])).amax(1)
    return most
