"""Adaptive training sample selection: each object sets its own IoU threshold from the priors nearest to its centre."""

from dataclasses import dataclass
from typing import Literal, Self

import torch
from torch import Tensor

from boxwright.assigners.blocks import clean_boxes, no_matches
from boxwright.assigners.grid import box_centers, inside_margin, nearest_priors
from boxwright.assigners.options import check_options
from boxwright.assigners.overlaps import EPS, best_objects, best_priors, overlapping_priors
from boxwright.assigners.regions import covered_by_crowd
from boxwright.assigners.select import claim, match, take
from boxwright.boxes.iou import aligned_iou
from boxwright.devices import widest
from boxwright.structures import IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["ATSSAssigner"]


@dataclass(frozen=True, slots=True)
class ATSSAssigner:
    """Zhang et al. 2020, arXiv:1912.02424, by default as mmdetection computes it.

    Candidates of an object are, on each level, the `topk` priors whose centres are nearest to its own (the lowest index
    on ties). Positive are those with an IoU of at least mean + standard deviation (of n - 1) of its candidates' IoUs
    and a centre inside the object. A prior that is positive for several objects goes to the one with the largest IoU,
    on ties to the lowest index. Priors covered by a crowd region are ignored. Priors without `levels` are one level.

    >>> from boxwright.boxes import AnchorGenerator
    >>> priors = AnchorGenerator.square((8,), scale=2, offset=0.5)([(2, 4)])
    >>> targets = Targets.from_list([{"boxes": torch.tensor([[0.0, 0, 16, 16]]), "labels": torch.tensor([1])}])
    >>> ATSSAssigner(topk=4)(priors, targets).gt_index
    tensor([[ 0,  0, -1, -1,  0,  0, -1, -1]])

    Attributes:
        topk: candidates per level; of all levels together where not `adaptive`.
        adaptive: False: no threshold, and candidates are the priors with the largest IoU less a thousandth of their
            distance over the largest distance of a prior from an object in the image (TOPK in the original's code).
        topk_per_prior: multiply `topk` by the number of priors per cell (the original).
        plus_one: boxes are inclusive pixel ranges, sides are x2 - x1 + 1 (the original).
        strict: a positive's IoU must exceed the threshold (PaddleDetection) instead of reaching it.
        margin: pixels by which a centre must lie inside; 1e-9 in PaddleDetection.
        conflicts: "selected" compares the objects that a prior is positive for, "all" every object of the image
            (PaddleDetection), even one that did not choose the prior.
        force_match: at the end every object also takes the prior that it overlaps most, unless another takes it as
            well; the prior leaves the object that it had.
        soft_scores: score positives by the IoU of the predicted box with the object instead of 1.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range, or `topk_per_prior` where not `adaptive`.
    """

    topk: int = 9
    adaptive: bool = True
    topk_per_prior: bool = False
    plus_one: bool = False
    strict: bool = False
    margin: float = 0.01
    conflicts: Literal["selected", "all"] = "selected"
    force_match: bool = False
    soft_scores: bool = False
    ignore_threshold: float | None = 0.5

    def __post_init__(self) -> None:
        check_options(self)
        if self.topk_per_prior and not self.adaptive:
            raise ValueError(
                "topk_per_prior=True counts cells of a level, but adaptive=False knows no levels: unset it"
            )

    @classmethod
    def original(cls, topk: int = 9, *, adaptive: bool = True) -> Self:
        """Return the form of the authors' code."""
        return cls(topk, adaptive, topk_per_prior=adaptive, plus_one=True)

    @classmethod
    def paddle(cls, topk: int = 9, *, force_match: bool = False, soft_scores: bool = False) -> Self:
        """Return the form of PaddleDetection."""
        return cls(topk, strict=True, margin=1e-9, conflicts="all", force_match=force_match, soft_scores=soft_scores)

    @property
    def needs_predictions(self) -> bool:
        """Whether decoded predictions are looked at."""
        return self.soft_scores

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once.

        Raises:
            ValueError: `soft_scores` without decoded predictions.
        """
        boxes, anchors = clean_boxes(targets.boxes, targets.objects), clean_boxes(priors.boxes)
        offset = 1.0 if self.plus_one else 0.0
        covered = covered_by_crowd(priors, targets, self.ignore_threshold, offset=offset)
        if (nothing := no_matches(boxes, covered)) is not None:
            return nothing
        if self.adaptive:
            candidates = nearest_priors(priors, box_centers(boxes), self.topk, per_cell=self.topk_per_prior)
        else:
            candidates = overlapping_priors(boxes, anchors, priors.centers, targets.objects, self.topk, offset=offset)
        iou, positive = self._select(boxes, anchors, priors.centers, candidates, offset)  # (B, G, K)
        index = match(candidates, iou, positive, len(priors))
        if self.conflicts == "all":
            wanted = torch.zeros_like(index).scatter_add(1, candidates.flatten(1), positive.flatten(1).long())
            favourite = best_objects(boxes, anchors, levels=priors.levels, offset=offset)[1]
            index = torch.where(wanted > 1, favourite, index)
        if self.force_match:
            overlap, prior = best_priors(boxes, anchors, offset=offset)
            claimant, claims = claim(prior, overlap > 0, len(priors))
            index = torch.where(claims == 1, claimant, index)
        index = index.masked_fill(covered, IGNORED)
        return Assignment(index, self._score(index, targets, predictions))

    def _select(
        self, boxes: Tensor, anchors: Tensor, centers: Tensor, candidates: Tensor, offset: float
    ) -> tuple[Tensor, Tensor]:
        """IoU of the candidates and which of them are positive, both (B, G, K)."""
        boxes = boxes.unsqueeze(2)
        iou = aligned_iou(boxes, take(anchors, candidates), eps=EPS, offset=offset)
        inside = inside_margin(boxes, take(centers, candidates)) > self.margin
        if not self.adaptive:
            return iou, inside
        # in float64 the mean of equal IoUs is one of them, in whatever order a device adds
        exact = iou.to(widest(iou.device))
        threshold = exact.mean(-1, keepdim=True)
        if iou.shape[-1] > 1:
            threshold = threshold + exact.std(-1, keepdim=True)
        threshold = threshold.to(iou.dtype)
        reached = iou > threshold if self.strict else iou >= threshold
        return iou, reached & inside

    def _score(self, index: Tensor, targets: Targets, predictions: Predictions | None) -> Tensor:
        positive = index >= 0
        if not self.soft_scores:
            return positive.to(torch.float32)
        if predictions is None or predictions.boxes is None:
            raise ValueError("soft_scores=True needs predictions with decoded boxes")
        matched = Assignment(index, positive).boxes(targets)
        predicted = clean_boxes(predictions.boxes.to(torch.float32))
        return aligned_iou(predicted, clean_boxes(matched), eps=EPS).to(torch.float32) * positive
