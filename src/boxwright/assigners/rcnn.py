"""Faster R-CNN's two target rules: max-IoU matching followed by random sampling."""

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from boxwright.assigners.blocks import clean_boxes
from boxwright.assigners.max_iou import MaxIoUAssigner
from boxwright.assigners.options import check_options
from boxwright.assigners.samplers import RandomSampler
from boxwright.structures import IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["ProposalAssigner", "RPNAssigner", "with_objects"]


@dataclass(frozen=True, slots=True)
class RPNAssigner:
    """Targets of a region proposal network: which anchors learn to be objects, and which of them in this step.

    An anchor is positive from `positive_iou` on or where it is an object's best, and learns the box of the object that
    it overlaps most itself; background below `negative_iou`. Of these a random sample is kept, the others are ignored.
    Unlike the original, an object that overlaps no anchor does not turn all anchors positive. Ties and crowd regions
    as in `MaxIoUAssigner`.
    Ren et al. 2015, arXiv 1506.01497.

    Attributes:
        positive_iou: IoU from which an anchor is positive.
        negative_iou: IoU below which an anchor is background.
        count: anchors per image in the sample.
        positive_fraction: largest share of positives in the sample.
        border: pixels by which an anchor may cross the border of the (padded) image before it is left out; None: any.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    positive_iou: float = 0.7
    negative_iou: float = 0.3
    count: int = 256
    positive_fraction: float = 0.5
    border: float | None = 0.0

    needs_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        RandomSampler(self.count, self.positive_fraction)  # which checks the others

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign and sample B images; the draw follows torch's global generator.

        Raises:
            ValueError: `border` is set and the priors lie on no grid that would tell the image's extent.
        """
        rule = MaxIoUAssigner(self.positive_iou, self.negative_iou, keep_argmax=True)
        used = torch.ones(len(priors), dtype=torch.bool, device=priors.boxes.device)
        if self.border is not None:
            used = _inside(priors, self.border)
        return _sample(rule, priors, used, targets, RandomSampler(self.count, self.positive_fraction))


@dataclass(frozen=True, slots=True)
class ProposalAssigner:
    """Targets of the region head: which proposals learn a class and a box, and which of them in this step.

    Proposals without area are padding and ignored; ties and crowd regions as in `MaxIoUAssigner`. Ren et al. 2015,
    arXiv 1506.01497, section 3.2, after Girshick 2015.

    Attributes:
        positive_iou: IoU from which a proposal is positive; below, it is background.
        negative_floor: IoU below which a proposal is ignored instead (0.1 in Fast R-CNN: near misses teach more).
        count: proposals per image in the sample.
        positive_fraction: largest share of positives in the sample.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    positive_iou: float = 0.5
    negative_floor: float = 0.0
    count: int = 512
    positive_fraction: float = 0.25

    needs_predictions: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_options(self)
        RandomSampler(self.count, self.positive_fraction)  # which checks the others

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign and sample B images; the draw follows torch's global generator."""
        rule = MaxIoUAssigner(self.positive_iou, self.positive_iou, self.negative_floor, low_quality="none")
        low, high = priors.boxes.split(2, dim=-1)
        used = (high > low).all(dim=-1)
        return _sample(rule, priors, used, targets, RandomSampler(self.count, self.positive_fraction))


def with_objects(priors: Priors, targets: Targets) -> Priors:
    """Put the objects themselves in front of the proposals (B, L, 4), so that the head sees positives from the start.

    Padding and crowd become boxes without area.
    """
    objects = targets.boxes * targets.objects.unsqueeze(-1)
    boxes = torch.cat([objects, priors.boxes], dim=1)
    center = (boxes[..., :2] + boxes[..., 2:]) / 2
    return Priors(boxes, center, torch.cat([priors.strides.new_ones(objects.shape[1]), priors.strides]))


def _sample(rule: MaxIoUAssigner, priors: Priors, used: Tensor, targets: Targets, sampler: RandomSampler) -> Assignment:
    """Assign by a rule as if only the priors `used`, (L,) or (B, L), were there; ignore the others; sample."""
    # without those the boxes are no grid any more
    assignment = rule.without_gradient(replace(priors, boxes=clean_boxes(priors.boxes, used), levels=()), targets)
    index = assignment.gt_index.where(used, IGNORED)
    return sampler(Assignment(index, assignment.score))


def _inside(priors: Priors, border: float) -> Tensor:
    """Tell which priors (L,) cross the border of the image by at most so many pixels."""
    if not priors.levels:
        raise ValueError(
            "border needs priors on grids, which tell the image's extent (Priors.levels); or set it to None"
        )
    width = max(level.width * level.stride for level in priors.levels)
    height = max(level.height * level.stride for level in priors.levels)
    x1, y1, x2, y2 = priors.boxes.unbind(-1)
    return (x1 >= -border) & (y1 >= -border) & (x2 <= width + border) & (y2 <= height + border)
