"""Why each prior of an image went to its object, and why an object got none."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from boxwright.assigners import ATSSAssigner, MaxIoUAssigner, RPNAssigner, SSDAssigner
from boxwright.assigners.grid import box_centers, nearest_priors
from boxwright.assigners.overlaps import EPS
from boxwright.boxes import box_iou
from boxwright.boxes.iou import aligned_iou
from boxwright.study.scenes import Batch
from boxwright.study.tally import alone, level_of

__all__ = ["Match", "Verdict", "explain"]

Reason = Callable[[int, int], str]


@dataclass(frozen=True, slots=True)
class Match:
    """One positive prior: its index, level and box (x1, y1, x2, y2 in input pixels), and why it is positive."""

    prior: int
    level: int
    box: tuple[float, ...]
    why: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """One object: its positive priors, and why it has none (empty where it has some)."""

    matches: tuple[Match, ...]
    why_none: str


def explain(assigner: Any, batch: Batch) -> list[Verdict]:
    """Explain the assignment of a batch of one image, object by object (crowd regions left out).

    Args:
        assigner: one that needs no predictions.
        batch: one image.
    """
    assignment = assigner(batch.priors, batch.targets, None)
    number = (batch.rows[0] >= 0).nonzero()[:, 0]
    if not len(number):
        return []
    boxes = batch.targets.boxes[0, number]
    iou = box_iou(boxes, batch.priors.boxes, eps=EPS)
    wanted = alone(assigner, batch, torch.zeros_like(number), number)
    owner = torch.full_like(assignment.gt_index[0], -1)
    for index, entry in enumerate(number.tolist()):
        owner[assignment.gt_index[0] == entry] = index
    reason, level = _rule(assigner, boxes, batch, iou), level_of(batch.priors)

    def match(index: int, prior: int) -> Match:
        box = tuple(round(side, 1) for side in batch.priors.boxes[prior].tolist())
        return Match(prior, int(level[prior]), box, reason(index, prior) + _rivals(index, prior, wanted, iou))

    verdicts = []
    for index in range(len(number)):
        priors = (owner == index).nonzero()[:, 0].tolist()
        why_none = "" if priors else _why_none(assigner, index, wanted, owner, iou)
        verdicts.append(Verdict(tuple(match(index, prior) for prior in priors), why_none))
    return verdicts


def _rule(assigner: Any, boxes: Tensor, batch: Batch, iou: Tensor) -> Reason:
    """Return what says, for an object and a prior that it has, which rule gave it."""
    match assigner:
        case MaxIoUAssigner() | RPNAssigner() | SSDAssigner():
            threshold = assigner.positive_iou
            below = "the object's own prior, chosen for the largest IoU"

            def reached(index: int, prior: int) -> str:
                found = float(iou[index, prior])
                if found >= threshold:
                    return f"IoU {found:.2f} ≥ {threshold:g}"
                return f"{below}: {found:.2f}, under {threshold:g}"

            return reached
        case ATSSAssigner():
            nearest = nearest_priors(
                batch.priors, box_centers(boxes[None]), assigner.topk, per_cell=assigner.topk_per_prior
            )[0]
            offset = 1.0 if assigner.plus_one else 0.0
            overlap = aligned_iou(boxes.unsqueeze(1), batch.priors.boxes[nearest], eps=EPS, offset=offset)
            mean, std = overlap.mean(1), overlap.std(1)

            def adaptive(index: int, prior: int) -> str:
                m, s = float(mean[index]), float(std[index])
                return (
                    f"IoU {float(iou[index, prior]):.2f} ≥ {m + s:.2f}, the mean {m:.2f} + deviation {s:.2f} "
                    f"of its {nearest.shape[1]} candidates; centre inside"
                )

            return adaptive
        case _:
            return lambda index, prior: f"IoU {float(iou[index, prior]):.2f}"


def _rivals(index: int, prior: int, wanted: Tensor, iou: Tensor) -> str:
    """Name the other objects that would have had a prior."""
    others = [other for other in wanted[:, prior].nonzero()[:, 0].tolist() if other != index]
    if not others:
        return ""
    named = ", ".join(f"object {other + 1} (IoU {float(iou[other, prior]):.2f})" for other in others)
    return f"; won against {named}"


def _why_none(assigner: Any, index: int, wanted: Tensor, owner: Tensor, iou: Tensor) -> str:
    priors = wanted[index].nonzero()[:, 0]
    if len(priors):
        winners, counts = owner[priors].unique(return_counts=True)
        names = ", ".join(
            f"object {winner + 1} ({count})" if winner >= 0 else f"nobody ({count})"
            for winner, count in zip(winners.tolist(), counts.tolist(), strict=True)
        )
        return f"all {len(priors)} priors that it would get alone went to {names}"
    best = f"the best prior overlaps it by IoU {float(iou[index].max()):.2f}"
    threshold = getattr(assigner, "positive_iou", None)
    return f"{best}, under {threshold:g}" if threshold is not None else f"no prior qualifies: {best}"
