"""SSD's multibox matching: every object gets a box of its own, then every box that fits well enough is positive."""

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from boxwright.assigners.blocks import blocks, clean_boxes, no_matches, of_images
from boxwright.assigners.options import check_options
from boxwright.assigners.regions import covered_by_crowd
from boxwright.assigners.select import Favourites, match, top_k
from boxwright.boxes import box_iou
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["SSDAssigner"]

_CHOICES: Final = 8


@dataclass(frozen=True, slots=True)
class SSDAssigner:
    """Give every object its best prior, then match the other priors with the object they overlap at least so much.

    Liu et al. 2016, arXiv 1512.02325. Where two objects have the same best prior, the better overlap has it (the lowest
    index on ties) and the other object moves on to its next best, up to its eighth; the original leaves the earlier
    object without. An object that overlaps no prior gets none. Scores are 1; nothing but crowd is ignored.

    Attributes:
        positive_iou: IoU from which a prior is positive.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    positive_iou: float = 0.5
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once; predictions are not looked at."""
        boxes, anchors = clean_boxes(targets.boxes, targets.objects), clean_boxes(priors.boxes)
        covered = covered_by_crowd(priors, targets, self.ignore_threshold)
        if (nothing := no_matches(boxes, covered)) is not None:
            return nothing
        best, overlap, choices = _search(boxes, anchors, covered)
        forced = _own_priors(overlap, choices, len(priors))
        reached = (best.value > 0) & (best.value >= self.positive_iou)
        index = best.owner.to(torch.int64).where(reached, BACKGROUND)
        index = torch.where(forced >= 0, forced, index).masked_fill(covered, IGNORED)
        return Assignment(index, (index >= 0).to(torch.float32))


def _search(boxes: Tensor, anchors: Tensor, hidden: Tensor) -> tuple[Favourites, Tensor, Tensor]:
    """Best object of every prior; IoU and index (B, G, K) of every object's best priors."""
    count = min(_CHOICES, anchors.shape[-2])
    best = Favourites(hidden)
    overlap = boxes.new_zeros(*boxes.shape[:2], count)
    index = torch.zeros_like(overlap, dtype=torch.int64)
    for images, objects in blocks(boxes, anchors.shape[-2]):
        iou = box_iou(boxes[images, objects], of_images(anchors, images)).mul_(~hidden[images, None])
        best.see(iou, images, objects)
        overlap[images, objects], index[images, objects] = top_k(iou, count)
    return best, overlap, index


def _own_priors(overlap: Tensor, index: Tensor, priors: int) -> Tensor:
    """Let objects propose to their choices in order, each prior keeping the best proposal: (B, L) object or -1.

    Deferred acceptance (Gale & Shapley 1962); as both sides rank by IoU, the result is that of taking the best pair of
    all again and again, but for those of dozens of objects in one place that lose their prior in the last of K rounds.
    """
    images, objects, choices = overlap.shape
    number = torch.arange(objects, device=overlap.device)
    turn = number.new_zeros(images, objects, 1)
    for _ in range(choices):
        prior, value = index.gather(2, turn), overlap.gather(2, turn)
        owner = match(prior, value, value > 0, priors)
        turn = turn + (owner.gather(1, prior.squeeze(2)) != number).unsqueeze(2)
    return owner
