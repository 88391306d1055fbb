"""Criteria of the ranking losses, which balance scores and boxes by what their losses are worth."""

import copy
from typing import Any

import torch
from torch import Tensor

from boxwright.criteria.dense import DenseCriterion
from boxwright.distributed import all_reduce_sum, mean_over_processes, world_size
from boxwright.structures import Predictions, Priors, Targets

__all__ = ["ALRPCriterion", "BalancedCriterion"]

SMALLEST = 1e-10


class BalancedCriterion(DenseCriterion):
    """Dense criterion whose box loss is scaled to the value of its classification loss in every step.

    K. Oksuz et al., "Rank & Sort Loss for Object Detection and Instance Segmentation", 2021, arXiv:2107.11669: ranking
    losses lie in 0..1 whatever the number of objects, so that no weight between the two has to be tuned.
    """

    def forward(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return the losses of `DenseCriterion`, `box` worth as much as `classification`."""
        losses = super().forward(predictions, priors, targets)
        goal, value = mean_over_processes(torch.stack([losses["classification"], losses["box"]])).unbind()
        losses["box"] = losses["box"] * (goal / value.clamp(min=SMALLEST))
        return losses


class ALRPCriterion(DenseCriterion):
    """Dense criterion of average LRP, whose classification loss (`ALRPLoss`) ranks the boxes' losses as well.

    K. Oksuz et al., "A Ranking-based, Balanced Loss Function Unifying Classification and Localisation in Object
    Detection", 2020, arXiv:2009.13592. Arguments as in `DenseCriterion`; the box loss must compare decoded boxes.

    Raises:
        ValueError: a sampler, a distribution or quality part, or a box loss that does not compare decoded boxes.
    """

    def __init__(self, *parts: Any, **options: Any) -> None:
        super().__init__(*parts, **options)
        if self.sampler is not None:
            raise ValueError("aLRP ranks all priors; it needs sampler=None")
        if self.box.space != "boxes" or self.distribution is not None or self.quality is not None:
            raise ValueError("aLRP ranks losses of decoded boxes, such as giou, without distribution or quality part")
        box: Any = copy.deepcopy(self.box)
        box.reduction = "none"
        self.box = box

    def forward(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return the scalar losses of a batch: `classification` and `box`."""
        predictions = predictions.with_boxes(self.coder.decode(priors, predictions.params.float()))
        assignment = self._checked(self.assigner(priors, targets, predictions.detach()), targets, len(priors))
        match = self._match(assignment, predictions, priors, targets)
        self.positives = all_reduce_sum(match.counted.sum())
        self.normalizer = self.positives.clamp(min=1) / world_size()
        classification, box = self.classification(
            predictions.logits, assignment.labels(targets), self.box(predictions.boxes, match.boxes)
        )
        return {"classification": self.classification_weight * classification, "box": self.box_weight * box}
