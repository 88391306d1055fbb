"""The criterion of dense detectors."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from boxwright.assigners.samplers import LossSampler
from boxwright.boxes.iou import aligned_iou
from boxwright.criteria.contract import check_assignment, check_loss, check_matches
from boxwright.distributed import all_reduce_sum, world_size
from boxwright.kernels import DistanceModulator, modulated_row_sums
from boxwright.losses import softmax_cross_entropy
from boxwright.structures import Assignment, Predictions, Priors, Targets

__all__ = ["DenseCriterion", "centerness"]

AssignerFunction = Callable[[Priors, Targets, Predictions | None], Assignment]


class BoxCoder(Protocol):
    """Turns boxes into the parameters that a head predicts, and back."""

    def encode(self, priors: Priors, boxes: Tensor) -> Tensor:
        """Encode boxes (B, L, 4) relative to the priors."""

    def decode(self, priors: Priors, params: Tensor) -> Tensor:
        """Decode parameters (B, L, D) into boxes (B, L, 4)."""


class DenseCriterion(nn.Module):
    """Match every prior with an object, background or nothing; then charge its class logits and its box.

    The parts are plain objects: any assigner, any classification loss, any box loss.

    >>> import boxwright.assigners, boxwright.boxes, boxwright.losses
    >>> criterion = DenseCriterion(
    ...     assigner=boxwright.assigners.MaxIoUAssigner(),
    ...     classification=boxwright.losses.SigmoidFocalLoss(),
    ...     box=boxwright.losses.GIoULoss(),
    ...     coder=boxwright.boxes.DeltaCoder(),
    ... )

    Args:
        assigner: matches priors with objects.
        classification: loss of class logits against labels per prior (−1 background, −2 ignored). A softmax loss needs
            predictions with `extras["background"]`, which it sees as the last column.
        box: loss of the positives' boxes, in its `space`: "boxes" decoded, "deltas" encoded, or "gaussian" encoded
            beside the head's `extras["log_variance"]` (B, L, 4).
        coder: encodes and decodes boxes relative to the priors.
        sampler: chooses after the assignment which priors are charged, by the cross-entropy of their classes, such as
            SSD's `HardNegativeSampler`; None charges all.
        distribution: loss of the four distributions that a coder such as `IntegralCoder` reads, against distances.
        quality: loss of the logits `predictions.extras["quality"]` of the positives against `quality_target`.
        classification_weight: factor of the classification loss.
        box_weight: factor of the box loss.
        distribution_weight: factor of the distribution loss.
        quality_weight: factor of the quality loss.
        soft_target: class target of a positive: "hard" 1, "assignment" the assigner's score, or "iou" the IoU of its
            decoded box with its object.
        sum_targets: whether the targets of `soft_target="assignment"` are summed to normalise (TOOD), or the positives
            are counted all the same (NanoDet-Plus).
        quality_target: "centerness" of the prior in its object (Tian et al. 2019, arXiv:1904.01355), or "iou" of the
            decoded box.
        weigh_boxes: what weighs (and normalises) the box losses of a positive: "target" its class target, "score" its
            highest predicted class score (Li et al. 2020, arXiv:2006.04388), or "quality" the quality target.

    Raises:
        TypeError: the classification loss is no module, or the box loss has no `space` of boxes.
        PartError: in a call, the assigner or a loss answers something else than it must.

    Attributes:
        checks_matches: whether a call also looks at whether priors are matched with objects, for which it waits for the
            device; the trainer sets it for the first step.
        positives: scalar, what the losses are normalised by, summed over the global batch of the last call: the class
            targets with `soft_target="assignment"` and `sum_targets`, else the number of positive priors.
        normalizer: scalar, what the last call divided by: `positives`, at least 1, per process, so that averaging the
            gradients of the processes gives those of one process with the whole batch. An engine that accumulates
            micro-batches multiplies by it and divides by that of the summed positives, which is exact unless
            `weigh_boxes` or uncounted soft targets give the box losses a sum of weights of their own to divide by.
    """

    positives: Tensor
    normalizer: Tensor
    checks_matches: bool = False

    def __init__(
        self,
        assigner: AssignerFunction,
        classification: nn.Module,
        box: nn.Module,
        coder: BoxCoder,
        *,
        sampler: LossSampler | None = None,
        distribution: nn.Module | None = None,
        quality: nn.Module | None = None,
        classification_weight: float = 1.0,
        box_weight: float = 1.0,
        distribution_weight: float = 0.25,
        quality_weight: float = 1.0,
        soft_target: Literal["hard", "assignment", "iou"] = "hard",
        sum_targets: bool = True,
        quality_target: Literal["centerness", "iou"] = "centerness",
        weigh_boxes: Literal["target", "score", "quality"] = "target",
    ) -> None:
        super().__init__()
        if not isinstance(classification, nn.Module):
            raise TypeError(f"classification must be a loss module, such as SigmoidFocalLoss(), got {classification!r}")
        if not isinstance(box, nn.Module) or getattr(box, "space", None) not in ("boxes", "deltas", "gaussian"):
            raise TypeError(f"box must be a loss module with a `space`, such as GIoULoss(), got {box!r}")
        self.assigner = assigner
        self.classification = classification
        self.box = box
        self.coder = coder
        self.sampler = sampler
        self.distribution = distribution
        self.quality = quality
        self.classification_weight = classification_weight
        self.box_weight = box_weight
        self.distribution_weight = distribution_weight
        self.quality_weight = quality_weight
        self.soft_target = soft_target
        self.sum_targets = sum_targets
        self.quality_target = quality_target
        self.weigh_boxes = weigh_boxes
        self.register_buffer("positives", torch.zeros(()), persistent=False)
        self.register_buffer("normalizer", torch.ones(()), persistent=False)

    def forward(self, predictions: Predictions, priors: Priors, targets: Targets) -> dict[str, Tensor]:
        """Return the scalar losses of a batch: `classification`, `box`, and `distribution` and `quality` where set.

        A head in training may add the predictions of a guide, `extras["guide_logits"]` and `extras["guide_params"]`:
        they decide the assignment in place of its own, and are charged alike, as `guide_classification` and so on.
        """
        predictions = self._decoded(predictions, priors)
        if "guide_logits" not in predictions.extras:
            return self.charge(predictions, priors, targets, self._assigned(predictions, priors, targets))
        guide = Predictions(predictions.extras["guide_logits"], predictions.extras["guide_params"])
        guide = self._decoded(guide, priors)
        assignment = self._assigned(guide, priors, targets)
        guided = self.charge(guide, priors, targets, assignment)
        losses = self.charge(predictions, priors, targets, assignment)
        return losses | {f"guide_{name}": loss for name, loss in guided.items()}

    @property
    def _looks(self) -> bool:
        """Whether the assigner looks at predictions."""
        return bool(getattr(self.assigner, "needs_predictions", True))

    @property
    def _rates(self) -> bool:
        """Whether the quality target is read."""
        return self.quality is not None or self.weigh_boxes == "quality"

    @property
    def _compares(self) -> bool:
        """Whether the IoU of the positives is read."""
        return self.soft_target == "iou" or (self._rates and self.quality_target == "iou")

    def _decoded(self, predictions: Predictions, priors: Priors) -> Predictions:
        """Predictions with boxes where something reads them."""
        if not (self._looks or self._compares or self.box.space == "boxes"):
            return predictions
        return predictions.with_boxes(self.coder.decode(priors, predictions.params.float()))

    def _assigned(self, predictions: Predictions, priors: Priors, targets: Targets) -> Assignment:
        seen = predictions.detach().with_sigmoids() if self._looks else None
        return self._checked(self.assigner(priors, targets, seen), targets, len(priors))

    def _checked(self, answer: Assignment, targets: Targets, priors: int) -> Assignment:
        """Return the answer of an assigner, which may be anybody's, for so many priors."""
        check_assignment(self.assigner, answer, (len(targets), priors))
        if self.checks_matches:
            check_matches(self.assigner, answer, targets)
        return answer

    def charge(
        self, predictions: Predictions, priors: Priors, targets: Targets, assignment: Assignment
    ) -> dict[str, Tensor]:
        """Return the losses of priors that have been matched already; a subclass that overrides it can add a term.

        `predictions.boxes` are decoded where the assigner or a loss reads them. Divide a term by `self.normalizer`.
        """
        assignment = self._sampled(assignment, predictions, targets)
        match = self._match(assignment, predictions, priors, targets)
        self.positives, weights = all_reduce_sum(torch.stack([match.counted.sum(), match.weight.sum()])).unbind()
        self.normalizer = self.positives.clamp(min=1) / world_size()
        box_normalizer = weights.clamp(min=1) / world_size()
        classification = self.classification(
            predictions.columns(), assignment.labels(targets), scores=match.target, normalizer=self.normalizer
        )
        losses = {
            "classification": self._weighed("classification", classification),
            "box": self._weighed("box", self._box_loss(predictions, priors, match, box_normalizer)),
        }
        if self.distribution is not None:
            sides = predictions.params.unflatten(-1, (4, -1))
            goal = self.coder.encode(priors, match.boxes)
            distribution = self.distribution(sides, goal, weight=match.weight, normalizer=4 * box_normalizer)
            losses["distribution"] = self._weighed("distribution", distribution)
        if self.quality is not None:
            logits = predictions.extras["quality"]
            weight = match.positive.to(torch.float32)
            quality = self.quality(logits, match.quality.unsqueeze(-1), weight=weight, normalizer=self.normalizer)
            losses["quality"] = self._weighed("quality", quality)
        return losses

    def _weighed(self, name: str, answer: Tensor) -> Tensor:
        """Return what a loss, which may be anybody's, answered, times its weight."""
        weight: float = getattr(self, f"{name}_weight")
        return weight * check_loss(name, getattr(self, name), answer)

    def _sampled(self, assignment: Assignment, predictions: Predictions, targets: Targets) -> Assignment:
        if self.sampler is None:
            return assignment
        return self.sampler(assignment, _class_cost(predictions.detach(), assignment.labels(targets)))

    def _match(self, assignment: Assignment, predictions: Predictions, priors: Priors, targets: Targets) -> "_Match":
        positive = assignment.positive
        # A prior without an object gets its own box, so that every prior encodes finitely.
        boxes = torch.where(positive.unsqueeze(-1), assignment.boxes(targets), priors.boxes)
        hard = positive.to(torch.float32)
        iou = quality = hard  # stand for what is not read
        if self._compares:
            assert predictions.boxes is not None  # as `_decoded` makes sure
            iou = hard * aligned_iou(predictions.boxes.detach(), boxes)
        if self._rates:
            quality = iou if self.quality_target == "iou" else hard * centerness(priors, boxes)
        target = {"hard": hard, "assignment": assignment.score, "iou": iou}[self.soft_target]
        if self.weigh_boxes == "score":
            weight = hard * predictions.detach().with_sigmoids().logits.float().amax(-1).sigmoid()
        else:
            weight = target if self.weigh_boxes == "target" else quality
        counted = target if self.soft_target == "assignment" and self.sum_targets else hard
        return _Match(positive, boxes, target, counted, quality, weight)

    def _box_loss(self, predictions: Predictions, priors: Priors, match: "_Match", normalizer: Tensor) -> Tensor:
        if self.box.space == "boxes":
            inputs, goal = predictions.boxes, match.boxes
        else:
            inputs, goal = predictions.params.float(), self.coder.encode(priors, match.boxes)
            if self.box.space == "gaussian":
                inputs = torch.cat([inputs, predictions.extras["log_variance"].float()], dim=-1)
        loss: Tensor = self.box(inputs, goal, weight=match.weight, normalizer=normalizer)
        return loss


def _class_cost(predictions: Predictions, labels: Tensor) -> Tensor:
    """(B, L) cross-entropy of each prior's classes."""
    if "background" in predictions.extras:
        return softmax_cross_entropy(predictions.columns(), labels)
    return modulated_row_sums(predictions.logits, labels, None, DistanceModulator(0.0))


class _Match(NamedTuple):
    """What every prior is asked for, (B, L) each but the boxes (B, L, 4); zero where it is not positive."""

    positive: Tensor
    boxes: Tensor
    target: Tensor
    counted: Tensor
    quality: Tensor
    weight: Tensor


def centerness(priors: Priors, boxes: Tensor) -> Tensor:
    """How central each prior lies in its box (B, L, 4): (B, L), 1 in the middle, 0 on the edge and outside.

    Z. Tian et al., "FCOS: Fully Convolutional One-Stage Object Detection", 2019, arXiv:1904.01355.
    """
    before = priors.centers - boxes[..., :2]
    after = boxes[..., 2:] - priors.centers
    near, far = torch.minimum(before, after).clamp(min=0), torch.maximum(before, after).clamp(min=1e-6)
    return (near / far).prod(dim=-1).sqrt()
