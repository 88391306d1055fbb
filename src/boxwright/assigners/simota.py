"""SimOTA: dynamic-k matching by classification loss, overlap and nearness to the object's centre."""

from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from boxwright.assigners.blocks import of_images
from boxwright.assigners.dynamic_k import Cost, dynamic_k, probability, sum_over_classes
from boxwright.assigners.grid import center_offsets, inside_margin
from boxwright.assigners.options import check_options
from boxwright.assigners.scene import Scene
from boxwright.structures import Assignment, Predictions, Priors, Targets

__all__ = ["SimOTAAssigner"]


@dataclass(frozen=True, slots=True)
class SimOTAAssigner:
    """Ge et al. 2021 (YOLOX), arXiv:2107.08430, by default as the authors' code computes it.

    With p the predicted probability of a class times that of an object (`predictions.extras["objectness"]`, where there
    is one) and u the IoU of the predicted box, a match costs

        class_weight · BCE(p, one-hot) + iou_weight · -ln(u + eps) + penalty where the prior is not near to the object.

    See `dynamic_k` for the matching; the score of a positive is u. Priors covered by a crowd region are ignored.

    Attributes:
        topk: how many IoUs are summed to find an object's number of positives.
        center_radius: half side of the window around an object's centre, in strides of the prior.
        near: what is near: "center": inside that window; "box": inside the object as well (mmdetection, where one of
            the two makes a candidate).
        root: take the square root of p.
        class_weight: factor of the classification cost.
        iou_weight: factor of the overlap cost.
        penalty: cost of a prior that is not near.
        eps: added to u.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    topk: int = 10
    center_radius: float = 1.5
    near: Literal["center", "box"] = "center"
    root: bool = True
    class_weight: float = 1.0
    iou_weight: float = 3.0
    penalty: float = 1e6
    eps: float = 1e-8
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)

    @classmethod
    def mmdet(
        cls, topk: int = 10, center_radius: float = 2.5, class_weight: float = 1.0, iou_weight: float = 3.0
    ) -> Self:
        """Return the form of mmdetection."""
        return cls(topk, center_radius, "box", False, class_weight, iou_weight, penalty=1e5, eps=1e-7)

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once.

        Raises:
            ValueError: no decoded predictions.
        """
        return dynamic_k(self, priors, targets, predictions)

    def reach(self, scene: Scene, images: slice, objects: slice) -> Tensor:
        """Tell what objects make candidates; for `dynamic_k`."""
        return self._windows(scene, images, objects)[1]

    def costs(self, scene: Scene) -> Cost:
        """Return what tells the cost of matches; for `dynamic_k`."""
        nothing = torch.ones_like(scene.covered, dtype=torch.float32)
        chance = nothing if scene.objectness is None else probability(scene.objectness)
        none = sum_over_classes(
            lambda logits, some: _log_loss(1 - self._joint(logits, some)), scene.logits, chance.unsqueeze(-1)
        )
        return partial(self._cost, scene, chance, none)

    def _joint(self, logits: Tensor, chance: Tensor) -> Tensor:
        joint = probability(logits).mul_(chance)
        return joint.sqrt_() if self.root else joint

    def _cost(self, scene: Scene, chance: Tensor, none: Tensor, images: slice, objects: slice, iou: Tensor) -> Tensor:
        """Cost of a block, (b, g, L); `none` (B, L) is the cross-entropy with no class at all.

        With the object's class it is larger by ln(1 - p) - ln(p) = ln(1/p - 1).
        """
        logits = scene.class_logits(images, objects)
        inverse = torch.neg(logits, out=logits).exp_().add_(1).div_(chance[images, None])
        inverse = inverse.sqrt_() if self.root else inverse
        entropy = inverse.sub_(1).log_().clamp_(-100, 100).add_(none[images, None]).mul_(self.class_weight)
        overlap = (iou + self.eps).log_().mul_(self.iou_weight)
        near = self._windows(scene, images, objects)[0]
        return entropy.sub_(overlap).add_(near.sub_(1), alpha=-self.penalty)

    def _windows(self, scene: Scene, images: slice, objects: slice) -> tuple[Tensor, Tensor]:
        """1 where a prior is near to the object (no penalty) and 1 where that makes it a candidate: (b, g, L) each."""
        boxes = scene.boxes[images, objects].unsqueeze(-2)
        centers = of_images(scene.priors.centers, images).unsqueeze(-3)
        x, y = center_offsets(boxes, centers)
        radius = of_images(scene.strides, images) * self.center_radius
        window = torch.lt(torch.maximum(x.abs_(), y.abs_(), out=x), radius, out=y)
        if self.near == "center":
            return window, window
        margin = inside_margin(boxes, centers)
        inside = torch.gt(margin, 0, out=margin)
        return window * inside, torch.maximum(window, inside)


def _log_loss(probability: Tensor) -> Tensor:
    """-ln p, at most 100 as in torch's binary cross-entropy; overwrites its input."""
    return probability.log_().clamp_(min=-100).neg_()
