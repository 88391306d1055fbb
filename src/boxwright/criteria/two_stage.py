"""The criteria of two-stage detectors: each stage learns from a sample of its priors."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from boxwright.assigners import LossSampler, RandomSampler
from boxwright.criteria.dense import BoxCoder, DenseCriterion
from boxwright.distributed import all_reduce_sum, world_size
from boxwright.structures import IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["StageCriterion", "TwoStageCriterion"]


class StageCriterion(DenseCriterion):
    """One stage of Faster R-CNN: the loss of an image is the mean over its sample, that of a batch over its images.

    So it is in the original, whose batches are one image (Ren et al. 2015, arXiv:1506.01497): both the class and the
    box terms are divided by the number of sampled priors, background included, which is what its outside weights do.
    An image in which nothing is sampled costs nothing.

    Args:
        parts: assigner, classification, box and coder as in `DenseCriterion`.
        sampler: thins out the assignment, at random where the assigner does not do so itself, or by what priors cost
            (online hard example mining); None lets all that the assigner leaves count.
        options: weights and `soft_target` as in `DenseCriterion`.

    Attributes:
        positives: scalar, number of images in the global batch.
        normalizer: scalar, images per process, what the sum over the images of this process is divided by.
    """

    def __init__(self, *parts: Any, sampler: RandomSampler | LossSampler | None = None, **options: Any) -> None:
        draw, by_cost = (sampler, None) if isinstance(sampler, RandomSampler) else (None, sampler)
        super().__init__(*parts, sampler=by_cost, **options)
        self.draw = draw

    def forward(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return the losses `classification` and `box` of a batch; only the sample is decoded and charged."""
        seen = None
        if self._looks:
            with torch.no_grad():
                boxes = self.coder.decode(priors, predictions.params.float())
            seen = predictions.detach().with_sigmoids().with_boxes(boxes)
        assignment = self.assign(priors, targets, seen)
        if self._most is not None:
            index = self._sample(assignment, self._most)
            predictions, priors, assignment = predictions.take(index), priors.take(index), assignment.take(index)
        return self._losses(self._decoded(predictions, priors), priors, targets, assignment)

    def assign(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Match the priors of every image and draw its sample; priors without area are padding and ignored."""
        low, high = priors.boxes.split(2, dim=-1)
        assignment = self._checked(self.assigner(priors, targets, predictions), targets, len(priors))
        index = assignment.gt_index.where((high > low).all(dim=-1), IGNORED)
        assignment = Assignment(index, assignment.score * (index >= 0))
        return assignment if self.draw is None else self.draw(assignment)

    def pick(self, priors: Priors, targets: Targets) -> tuple[Priors, Assignment]:
        """Match proposals (B, P, 4) and return the sample alone, positives first, then background, then padding.

        Its size is the number of priors that the random sampler, or the assigner, keeps at most.
        """
        assignment = self.assign(priors, targets)
        index = self._sample(assignment, self._most or len(priors))
        return priors.take(index), assignment.take(index)

    def charge(
        self, predictions: Predictions, priors: Priors, targets: Targets, assignment: Assignment
    ) -> dict[str, Tensor]:
        """Return the losses `classification` and `box` for priors that have been matched already.

        Class-specific box parameters (B, L, 4C) are those of the matched class where there is one.
        """
        if predictions.params.shape[-1] != 4:
            own = assignment.labels(targets).clamp(min=0)[..., None, None].expand(-1, -1, 1, 4)
            predictions = replace(predictions, params=predictions.params.unflatten(-1, (-1, 4)).gather(2, own)[:, :, 0])
        return self._losses(self._decoded(predictions, priors), priors, targets, assignment)

    @property
    def _most(self) -> int | None:
        """Size of a sample; None where there is no bound."""
        most: int | None = getattr(self.draw or self.assigner, "count", None)
        return most

    def _sample(self, assignment: Assignment, most: int) -> Tensor:
        """Indices (B, N) of the priors to be charged: positives, then background, then ignored ones to fill up."""
        count = assignment.gt_index.shape[1]
        rank = assignment.positive.long() - assignment.ignored.long()
        order = torch.arange(count, device=rank.device)
        # the position as well, so that the order of equals is the same everywhere
        return (rank * count - order).topk(min(most, count), dim=1).indices

    def _losses(
        self, predictions: Predictions, priors: Priors, targets: Targets, assignment: Assignment
    ) -> dict[str, Tensor]:
        assignment = self._sampled(assignment, predictions, targets)
        match = self._match(assignment, predictions, priors, targets)
        sampled = (~assignment.ignored).sum(dim=1, keepdim=True)  # (B, 1)
        share = (1 / sampled.clamp(min=1)).expand(match.positive.shape)
        self.positives = all_reduce_sum(torch.full((), float(len(share)), device=share.device))
        self.normalizer = self.positives.clamp(min=1) / world_size()
        classification = self.classification(
            predictions.columns(),
            assignment.labels(targets),
            scores=match.target,
            weight=share,
            normalizer=self.normalizer,
        )
        box = self._box_loss(predictions, priors, match._replace(weight=share * match.weight), self.normalizer)
        return {"classification": self._weighed("classification", classification), "box": self._weighed("box", box)}


class TwoStageCriterion(nn.Module):
    """What Faster R-CNN is trained by: the losses of the proposal network, and of the head that reads its proposals.

    Ren et al. 2015, arXiv:1506.01497; the total is the plain sum.

    Args:
        rpn: of the first stage, to which every object is of class 0.
        roi: of the second stage.

    Attributes:
        positives: scalar, as in `StageCriterion`, the same for both stages.
        normalizer: scalar, likewise.
    """

    positives: Tensor
    normalizer: Tensor

    def __init__(self, rpn: StageCriterion, roi: StageCriterion) -> None:
        super().__init__()
        self.rpn = rpn
        self.roi = roi
        for name in ("positives", "normalizer"):
            self.register_buffer(name, torch.ones(()), persistent=False)

    @property
    def coder(self) -> BoxCoder:
        """What decodes the boxes of detections."""
        return self.roi.coder

    def first(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return `rpn_class` and `rpn_box`: which anchors hold an object, whatever its class, and where."""
        objects = replace(targets, labels=torch.zeros_like(targets.labels))
        return self._named("rpn", self.rpn, self.rpn(predictions, priors, objects))

    def second(
        self, predictions: Predictions, priors: Priors, targets: Targets, assignment: Assignment
    ) -> dict[str, Tensor]:
        """Return `roi_class` and `roi_box` of the proposals that `roi.pick` has chosen."""
        return self._named("roi", self.roi, self.roi.charge(predictions, priors, targets, assignment))

    def _named(self, name: str, stage: StageCriterion, losses: dict[str, Tensor]) -> dict[str, Tensor]:
        self.positives, self.normalizer = stage.positives, stage.normalizer
        return {f"{name}_class": losses["classification"], f"{name}_box": losses["box"]}
