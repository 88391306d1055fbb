"""Max-IoU assignment: a prior takes the object that it overlaps most, an object keeps the prior that fits it best."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch

from boxwright.assigners.blocks import clean_boxes, no_matches
from boxwright.assigners.grid import inside_margin
from boxwright.assigners.options import check_options
from boxwright.assigners.overlaps import best_objects, best_priors
from boxwright.assigners.regions import covered_by_crowd
from boxwright.assigners.select import claim
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["MaxIoUAssigner"]


@dataclass(frozen=True, slots=True)
class MaxIoUAssigner:
    """Assign by two IoU thresholds, as RetinaNet, RPN and R-CNN do.

    A prior is positive from `positive_iou` on (for the object with the largest IoU, the lowest index on ties),
    background in [`negative_floor`, `negative_iou`), ignored elsewhere. Then every object claims the priors that
    reach its own best IoU, if that is positive and at least `min_positive_iou`; where several objects claim a prior,
    the last one has it. Priors covered by a crowd region are ignored, and nobody's best. Scores are 1.

    RetinaNet: the defaults. RPN: (0.7, 0.3, min_positive_iou=0.3). R-CNN: (0.5, 0.5, low_quality="none").

    Ren et al. 2015, arXiv:1506.01497; Lin et al. 2017, arXiv:1708.02002.

    >>> import torch
    >>> boxes = torch.tensor([[0.0, 0, 8, 8], [8, 0, 16, 8], [16, 0, 24, 8]])
    >>> priors = Priors(boxes, boxes[:, :2] + 4, torch.full((3,), 8.0))
    >>> targets = Targets.from_list([{"boxes": torch.tensor([[7.0, 0, 16, 8]]), "labels": torch.tensor([5])}])
    >>> MaxIoUAssigner()(priors, targets).gt_index
    tensor([[-1,  0, -1]])

    Attributes:
        positive_iou: IoU from which a prior is positive.
        negative_iou: IoU below which a prior is background.
        negative_floor: IoU below which a prior is ignored instead of background.
        min_positive_iou: an object whose best IoU is lower claims no prior.
        low_quality: which priors an object claims beyond the threshold: all that tie its best IoU, the first, none.
        keep_argmax: a claimed prior is matched with the object that it overlaps most, not with the claimant (AP-Loss).
        margin: pixels by which a positive's centre must lie inside its object, else the prior is ignored (0.01 in the
            ablation of the ATSS code); None: it may lie anywhere.
        plus_one: boxes are inclusive pixel ranges, sides are x2 - x1 + 1.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.
        ignore_of: the area of which that share is taken.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    positive_iou: float = 0.5
    negative_iou: float = 0.4
    negative_floor: float = 0.0
    min_positive_iou: float = 0.0
    low_quality: Literal["all", "first", "none"] = "all"
    keep_argmax: bool = False
    margin: float | None = None
    plus_one: bool = False
    ignore_threshold: float | None = 0.5
    ignore_of: Literal["prior", "crowd"] = "prior"

    needs_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once; predictions are not looked at."""
        return self.without_gradient(priors, targets)

    def without_gradient(self, priors: Priors, targets: Targets) -> Assignment:
        """Do the same where gradients are off; torch.compile cannot call a decorated method of what it built itself."""
        objects = targets.objects
        boxes, anchors = clean_boxes(targets.boxes, objects), priors.boxes
        offset = 1.0 if self.plus_one else 0.0
        covered = covered_by_crowd(
            priors, targets, self.ignore_threshold, of_crowd=self.ignore_of == "crowd", offset=offset
        )
        if (nothing := no_matches(boxes, covered)) is not None:
            return nothing
        hidden = covered if targets.has_crowd and self.ignore_threshold is not None else None
        claim_from = self.min_positive_iou if self.low_quality == "all" else None
        best, own, claimant = best_objects(
            boxes, anchors, hidden, levels=priors.levels, claim_from=claim_from, offset=offset
        )
        if self.low_quality == "first":
            reached, prior = best_priors(boxes, anchors, hidden, offset=offset)
            wanted = (reached > 0) & (reached >= self.min_positive_iou)
            claimant, _ = claim(prior, wanted, len(priors))
        index = torch.full_like(own, BACKGROUND).where(best < self.negative_iou, IGNORED)
        if self.negative_floor > 0:
            index = index.where(best >= self.negative_floor, IGNORED)
        index = torch.where(best >= self.positive_iou, own, index)
        index = torch.where(claimant >= 0, own if self.keep_argmax else claimant, index)
        index = index.where(objects.any(1, keepdim=True), BACKGROUND)
        if self.margin is not None:
            inside = inside_margin(Assignment(index, best).boxes(targets), priors.centers) > self.margin
            index = index.where(inside | (index < 0), IGNORED)
        index = index.masked_fill(covered, IGNORED)
        return Assignment(index, (index >= 0).to(torch.float32))
