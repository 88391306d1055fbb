"""What each kind of assigner goes by: the numbers behind a positive prior, and the sentence that they fill."""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from boxwright.assigners import (
    ATSSAssigner,
    DynamicSoftLabelAssigner,
    MaxIoUAssigner,
    RPNAssigner,
    SimOTAAssigner,
    SSDAssigner,
    TaskAlignedAssigner,
)
from boxwright.assigners.dynamic_k import prices
from boxwright.assigners.grid import box_centers, inside_margin, nearest_priors
from boxwright.assigners.overlaps import EPS
from boxwright.boxes import box_iou
from boxwright.boxes.iou import aligned_iou
from boxwright.structures import Predictions
from boxwright.study.inspection.inputs import InputBatch

__all__ = ["Rule", "rule_of"]


class Rule(Protocol):
    """What an assigner goes by in one image; objects are counted without crowd regions."""

    def sentence(self, number: int) -> str:
        """Why priors are positive for an object: `{0}`, `{1}`, … stand for the numbers of each prior."""

    def numbers(self, number: int, prior: int) -> tuple[float, ...]:
        """Return the numbers of a prior that fill the sentence."""

    def note(self, number: int, prior: int) -> str:
        """What is special about a prior; empty for most."""

    def stake(self, number: int, prior: int) -> str:
        """By what an object competes with others for a prior."""

    def nothing(self, number: int) -> str:
        """Why no prior would be positive even if an object were alone."""


@torch.no_grad()
def rule_of(assigner: Any, batch: InputBatch, number: Tensor, predictions: Predictions | None) -> Rule:
    """Return what an assigner goes by in a batch of one image, for the objects `number` (n,) of its targets."""
    boxes = batch.targets.boxes[0, number]
    match assigner:
        case MaxIoUAssigner() | RPNAssigner() | SSDAssigner():
            return _Threshold(_overlap(boxes, batch), assigner.positive_iou)
        case ATSSAssigner(adaptive=True):
            return _Adaptive.of(assigner, boxes, batch)
        case TaskAlignedAssigner():
            aligned, score, overlap = assigner.alignment(batch.priors, batch.targets, predictions)
            margin = inside_margin(boxes.unsqueeze(1), batch.priors.centers)
            inside = margin > assigner.margin
            return _Aligned(assigner, aligned[0, number], score[0, number], overlap[0, number], inside)
        case SimOTAAssigner() | DynamicSoftLabelAssigner():
            cost, iou = prices(assigner, batch.priors, batch.targets, predictions)
            return _Priced(cost[0, number], iou[0, number], assigner.topk)
        case _:
            return _Overlap(_overlap(boxes, batch))


def _overlap(boxes: Tensor, batch: InputBatch) -> Tensor:
    return box_iou(boxes, batch.priors.boxes, eps=EPS)


def _rank(values: Tensor, prior: int, *, falling: bool) -> int:
    """Place of a prior in the order of an object's values (L,), from 1; the lowest index first among equals."""
    own = values[prior]
    better = values > own if falling else values < own
    return 1 + int(better.sum()) + int((values[:prior] == own).sum())


@dataclass(frozen=True, slots=True)
class _Overlap:
    """Any assigner: says how much prior and object overlap, (n, L)."""

    iou: Tensor

    def sentence(self, number: int) -> str:
        return "IoU {0}"

    def numbers(self, number: int, prior: int) -> tuple[float, ...]:
        return (float(self.iou[number, prior]),)

    def note(self, number: int, prior: int) -> str:
        return ""

    def stake(self, number: int, prior: int) -> str:
        return f"IoU {float(self.iou[number, prior]):.2f}"

    def nothing(self, number: int) -> str:
        return f"no prior qualifies: the best overlaps it by IoU {float(self.iou[number].max()):.2f}"


@dataclass(frozen=True, slots=True)
class _Threshold(_Overlap):
    """Max-IoU and its relatives: a threshold, and an own prior for objects that do not reach it."""

    threshold: float

    def sentence(self, number: int) -> str:
        return f"IoU {{0}}, the threshold is {self.threshold:g}"

    def note(self, number: int, prior: int) -> str:
        forced = float(self.iou[number, prior]) < self.threshold
        return "under it: the object’s own prior, chosen for the largest IoU" if forced else ""

    def nothing(self, number: int) -> str:
        return f"the best prior overlaps it by IoU {float(self.iou[number].max()):.2f}, under {self.threshold:g}"


@dataclass(frozen=True, slots=True)
class _Adaptive(_Overlap):
    """ATSS: a threshold for each object, (n,) mean and deviation over its candidates."""

    mean: Tensor
    deviation: Tensor
    candidates: int

    @classmethod
    def of(cls, assigner: ATSSAssigner, boxes: Tensor, batch: InputBatch) -> "_Adaptive":
        center = box_centers(boxes[None])
        nearest = nearest_priors(batch.priors, center, assigner.topk, per_cell=assigner.topk_per_prior)[0]
        offset = 1.0 if assigner.plus_one else 0.0
        overlap = aligned_iou(boxes.unsqueeze(1), batch.priors.boxes[nearest], eps=EPS, offset=offset)
        deviation = overlap.std(1) if nearest.shape[1] > 1 else torch.zeros(len(boxes))
        return cls(_overlap(boxes, batch), overlap.mean(1), deviation, nearest.shape[1])

    def sentence(self, number: int) -> str:
        m, s = float(self.mean[number]), float(self.deviation[number])
        return (
            f"IoU {{0}} ≥ {m + s:.2f}, the mean {m:.2f} + deviation {s:.2f} of its {self.candidates} candidates; "
            "centre inside"
        )


@dataclass(frozen=True, slots=True)
class _Aligned:
    """Task-aligned: t, s and u of every object and prior (n, L), and whether the prior's centre is inside."""

    assigner: TaskAlignedAssigner
    aligned: Tensor
    score: Tensor
    overlap: Tensor
    inside: Tensor

    def sentence(self, number: int) -> str:
        a, b = (f"^{power:g}" if power != 1 else "" for power in (self.assigner.alpha, self.assigner.beta))
        return f"alignment {{0}} = score {{1}}{a} · overlap {{2}}{b}, number {{3}} of the {self.assigner.topk} best"

    def numbers(self, number: int, prior: int) -> tuple[float, ...]:
        values = (self.aligned, self.score, self.overlap)
        found = tuple(float(value[number, prior]) for value in values)
        return (*found, _rank(self.aligned[number], prior, falling=True))

    def note(self, number: int, prior: int) -> str:
        return ""

    def stake(self, number: int, prior: int) -> str:
        return f"overlap {float(self.overlap[number, prior]):.2f}"

    def nothing(self, number: int) -> str:
        best = self.aligned[number].topk(min(self.assigner.topk, self.aligned.shape[1]))
        if float(best.values[0]) <= 0:
            largest = float(self.overlap[number].max())
            return f"no predicted box is aligned with it: the largest overlap is {largest:.2f}"
        inside = int(self.inside[number, best.indices].sum())
        return f"of the {len(best.indices)} best aligned priors {inside} have their centre inside it"


@dataclass(frozen=True, slots=True)
class _Priced:
    """SimOTA and dynamic soft labels: cost (infinite where no candidate) and IoU of every object and prior (n, L)."""

    cost: Tensor
    iou: Tensor
    topk: int

    def sentence(self, number: int) -> str:
        best = self._best(number)
        k = max(1, int(best.sum()))
        return (
            f"cost {{0}}, IoU {{1}}: number {{2}} of its k = {k} cheapest; its {len(best)} best predictions overlap it "
            f"by {float(best.sum()):.1f} in sum"
        )

    def numbers(self, number: int, prior: int) -> tuple[float, ...]:
        cost = self.cost[number]
        return (float(cost[prior]), float(self.iou[number, prior]), _rank(cost, prior, falling=False))

    def note(self, number: int, prior: int) -> str:
        k = max(1, int(self._best(number).sum()))
        return "not among them, but cheapest for this object" if self.numbers(number, prior)[2] > k else ""

    def stake(self, number: int, prior: int) -> str:
        return f"cost {float(self.cost[number, prior]):.2f}"

    def nothing(self, number: int) -> str:
        return "no prior is a candidate"

    def _best(self, number: int) -> Tensor:
        candidates = self.iou[number].where(self.cost[number].isfinite(), 0.0)
        return candidates.topk(min(self.topk, len(candidates))).values
