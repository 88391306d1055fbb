"""Dynamic soft labels: dynamic-k matching by a classification cost whose target is the predicted box's own overlap."""

import math
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from boxwright.assigners.blocks import of_images
from boxwright.assigners.dynamic_k import Cost, dynamic_k, sum_over_classes
from boxwright.assigners.grid import center_offsets, inside_margin
from boxwright.assigners.options import check_options
from boxwright.assigners.scene import Scene
from boxwright.structures import Assignment, Predictions, Priors, Targets

__all__ = ["DynamicSoftLabelAssigner"]


@dataclass(frozen=True, slots=True)
class DynamicSoftLabelAssigner:
    """Lyu et al. 2022 (RTMDet), arXiv:2212.07784; with `center_radius=None` NanoDet-Plus (RangiLyu 2021).

    With x the class logits, s their sigmoid and u the IoU of the predicted box, a match costs

        Σ BCE(x, u · one-hot) · |u · one-hot - s|² + iou_weight · -ln(u + 1e-7) + 10^(d - center_radius)

    where d is the distance of the centres in strides of the prior. Candidates are the priors inside some object. See
    `dynamic_k` for the matching; the score of a positive is u. Priors covered by a crowd region are ignored.

    Attributes:
        topk: how many IoUs are summed to find an object's number of positives.
        iou_weight: factor of the overlap cost.
        center_radius: distance of centres, in strides, that costs 1; None: distance costs nothing.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    topk: int = 13
    iou_weight: float = 3.0
    center_radius: float | None = 3.0
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once.

        Raises:
            ValueError: no decoded predictions.
        """
        return dynamic_k(self, priors, targets, predictions)

    def reach(self, scene: Scene, images: slice, objects: slice) -> Tensor:
        """Tell what objects make candidates; for `dynamic_k`."""
        centers = of_images(scene.priors.centers, images).unsqueeze(-3)
        margin = inside_margin(scene.boxes[images, objects].unsqueeze(-2), centers)
        return torch.gt(margin, 0, out=margin)

    def costs(self, scene: Scene) -> Cost:
        """Return what tells the cost of matches; for `dynamic_k`."""
        return partial(self._cost, scene, sum_over_classes(_without_class, scene.logits))

    def _cost(self, scene: Scene, none: Tensor, images: slice, objects: slice, iou: Tensor) -> Tensor:
        """Cost of a block, (b, g, L); `none` (B, L) is the classification cost with no class at all."""
        logits = scene.class_logits(images, objects)
        entropy, chance = _parts(logits)
        absent = entropy * chance.square()
        price = entropy.sub_(logits.mul_(iou)).mul_(chance.sub_(iou).square_()).sub_(absent).add_(none[images, None])
        price = price.add_((iou + 1e-7).log_().mul_(-self.iou_weight))
        if self.center_radius is None:
            return price
        centers = of_images(scene.priors.centers, images).unsqueeze(-3)
        x, y = center_offsets(scene.boxes[images, objects].unsqueeze(-2), centers)
        distance = x.square_().add_(y.square_()).sqrt_().div_(of_images(scene.strides, images))
        exponent = distance.sub_(self.center_radius).clamp_(max=30)  # 10^30 is still finite
        return price.add_(exponent.mul_(math.log(10)).exp_())


def _without_class(logits: Tensor) -> Tensor:
    """Classification cost of each class as background, elementwise."""
    entropy, chance = _parts(logits)
    return entropy.mul_(chance.square_())


def _parts(logits: Tensor) -> tuple[Tensor, Tensor]:
    """BCE(x, 0) and sigmoid(x), elementwise by steps that round alike anywhere in a tensor (see `probability`)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    small = logits.abs().neg_().exp_()  # in (0, 1]
    one = small + 1
    chance = small.masked_fill_(logits >= 0, 1).div_(one)
    return one.log_().add_(logits.clamp(min=0)), chance  # log1p is slow, and so small a term decides nothing
