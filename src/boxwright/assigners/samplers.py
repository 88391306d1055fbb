"""Samplers thin an assignment out: priors that were not chosen become ignored and cost nothing."""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from boxwright.boxes.nms import survivors
from boxwright.structures import IGNORED, Assignment

__all__ = ["HardExampleSampler", "HardNegativeSampler", "LossSampler", "RandomSampler"]


class LossSampler(Protocol):
    """Chooses priors by what they cost at the moment."""

    def __call__(self, assignment: Assignment, loss: Tensor) -> Assignment:
        """Return the assignment with the priors that were not chosen ignored; `loss` (B, L) is without gradient."""


# without slots, whose values torch 2.11's compiler loses where a traced function makes the object
@dataclass(frozen=True)
class RandomSampler:
    """Keep up to `count` priors per image at random, at most a fraction of them positive. Ren et al. 2015, 1506.01497.

    Attributes:
        count: priors per image, positive and background together.
        positive_fraction: largest share of positives; background fills what positives leave free.
        negative_ratio: at most this many background priors per positive (of at least one); None for no bound.

    Raises:
        ValueError: `count` is below 1, or `positive_fraction` is no share.
    """

    count: int = 256
    positive_fraction: float = 0.5
    negative_ratio: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1 or not 0 <= self.positive_fraction <= 1:
            found = f"got {self.count} and {self.positive_fraction}"
            raise ValueError(f"count must be at least 1 and positive_fraction from 0 to 1, {found}")

    def __call__(self, assignment: Assignment, generator: torch.Generator | None = None) -> Assignment:
        """Sample every image of the batch; reproducible by the seed of `generator` (default: torch's global one)."""
        draw = torch.rand(assignment.score.shape, generator=generator, device=assignment.score.device)
        positive = _largest(draw, assignment.positive, int(self.count * self.positive_fraction))
        taken = positive.sum(dim=1)
        room = self.count - taken
        if self.negative_ratio is not None:
            room = room.minimum((self.negative_ratio * taken.clamp(min=1)).clamp(max=self.count).long())
        negative = _largest(draw, _background(assignment), self.count, room)
        return _keep(assignment, positive | negative)


@dataclass(frozen=True, slots=True)
class HardNegativeSampler:
    """Keep all positives and, per image, the background priors that cost most. Liu et al. 2016, arXiv 1512.02325.

    Attributes:
        ratio: background priors per positive.
        minimum: background priors of an image with few positives; 0 as published, where an image without objects
            teaches nothing.

    Raises:
        ValueError: one of them is negative.
    """

    ratio: float = 3.0
    minimum: int = 0

    def __post_init__(self) -> None:
        if min(self.ratio, self.minimum) < 0:
            raise ValueError(f"ratio and minimum must be at least 0, got {self.ratio} and {self.minimum}")

    @torch.no_grad()
    def __call__(self, assignment: Assignment, loss: Tensor) -> Assignment:
        """Choose by `loss` (B, L), the class loss of every prior; the lowest index among equals."""
        wanted = (self.ratio * assignment.positive.sum(dim=1)).clamp(max=loss.shape[1])
        room = wanted.long().clamp(min=self.minimum)
        background = _background(assignment)
        return _keep(assignment, assignment.positive | (background & (_rank(loss, background) < room.unsqueeze(1))))


@dataclass(frozen=True, slots=True)
class HardExampleSampler:
    """Keep the priors that cost most, positive or not. Online hard example mining, Shrivastava et al. 2016, 1604.03540.

    Attributes:
        count: priors kept per image.
        iou_threshold: of priors that overlap more than this only the costliest takes part, so that one hard region
            does not fill the batch; needs `boxes`, torchvision's NMS and a host synchronisation. None: all take part.

    Raises:
        ValueError: `count` is below 1.
    """

    count: int = 128
    iou_threshold: float | None = None

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"count must be at least 1, got {self.count}")

    @torch.no_grad()
    def __call__(self, assignment: Assignment, loss: Tensor, boxes: Tensor | None = None) -> Assignment:
        """Choose by `loss` (B, L), the whole loss of priors at `boxes` (B, L, 4) or (L, 4); of equals the lowest.

        Raises:
            ValueError: `iou_threshold` without boxes.
        """
        eligible = ~assignment.ignored
        if self.iou_threshold is not None:
            if boxes is None:
                raise ValueError(f"iou_threshold={self.iou_threshold} needs the boxes of the priors")
            eligible = eligible & _unsuppressed(boxes, loss, eligible, self.iou_threshold)
        return _keep(assignment, eligible & (_rank(loss, eligible) < self.count))


def _background(assignment: Assignment) -> Tensor:
    return ~assignment.positive & ~assignment.ignored


def _keep(assignment: Assignment, chosen: Tensor) -> Assignment:
    index = torch.where(chosen, assignment.gt_index, IGNORED)
    return Assignment(index, assignment.score * chosen)


def _rank(loss: Tensor, eligible: Tensor) -> Tensor:
    """Place (B, L) of every prior by falling loss in its image, the lowest index first among equals."""
    cost = loss.masked_fill(~eligible, -torch.inf)
    order = cost.argsort(dim=1, descending=True, stable=True)
    place = torch.arange(cost.shape[1], device=cost.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, place)


def _largest(value: Tensor, eligible: Tensor, most: int, room: Tensor | None = None) -> Tensor:
    """Mark (B, L) the largest eligible values of each image: at most `most`, and at most `room` (B,)."""
    most = min(most, value.shape[1])
    top = value.masked_fill(~eligible, -torch.inf).topk(most, dim=1).indices
    inside = eligible.gather(1, top)
    if room is not None:
        inside = inside & (torch.arange(most, device=value.device) < room.unsqueeze(1))
    return torch.zeros_like(eligible).scatter(1, top, inside)


def _unsuppressed(boxes: Tensor, loss: Tensor, eligible: Tensor, threshold: float) -> Tensor:
    """Mark (B, L) the priors that survive NMS by loss within their image."""
    images, priors = loss.shape
    image = torch.arange(images, device=loss.device).repeat_interleave(priors)
    rows = eligible.flatten().nonzero().squeeze(1)
    flat = boxes.expand(images, priors, 4).reshape(-1, 4)[rows]
    kept = rows[survivors(flat, loss.flatten()[rows], image[rows], threshold)]
    return torch.zeros_like(eligible).flatten().index_fill(0, kept, True).view(images, priors)
