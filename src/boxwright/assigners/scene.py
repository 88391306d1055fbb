"""What an assigner that looks at predictions needs, made safe once per call."""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from boxwright.assigners.blocks import clean_boxes
from boxwright.assigners.regions import covered_by_crowd
from boxwright.counts import counted
from boxwright.structures import Predictions, Priors, Targets

__all__ = ["Scene", "check_predictions"]


@dataclass(frozen=True, eq=False, slots=True)
class Scene:
    """B images with G objects, L priors and what was predicted at them.

    Attributes:
        targets: as given.
        boxes: (B, G, 4) clean boxes of the objects, far away where there is none.
        logits: (B, L, C) as predicted.
        predicted: (B, L, 4) clean predicted boxes, far away at covered priors.
        priors: as given, the centres stored coordinate by coordinate.
        covered: (B, L) bool, priors in a region to ignore.
        strides: (1 or B, 1, L) of the priors.
        objectness: (B, L) logits, where the head has them.
    """

    targets: Targets
    boxes: Tensor
    logits: Tensor
    predicted: Tensor
    priors: Priors
    covered: Tensor
    strides: Tensor
    objectness: Tensor | None

    @classmethod
    def of(
        cls,
        priors: Priors,
        targets: Targets,
        predictions: Predictions | None,
        ignore_threshold: float | None,
    ) -> Self:
        """Prepare a call.

        Raises:
            ValueError: no decoded predictions, not one per image and prior, or on the CPU, where nobody waits for it, a
                label without a logit.
        """
        if predictions is None or predictions.boxes is None:
            raise ValueError("this assigner looks at predictions: pass predictions with decoded boxes")
        check_predictions(priors, targets, predictions)
        covered = covered_by_crowd(priors, targets, ignore_threshold)
        boxes = clean_boxes(targets.boxes.to(torch.float32), targets.objects)
        keep = ~covered if targets.has_crowd and ignore_threshold is not None else None
        predicted = clean_boxes(predictions.boxes.to(torch.float32), keep)
        priors = replace(priors, centers=priors.centers.movedim(-1, 0).contiguous().movedim(0, -1))
        objectness = predictions.extras.get("objectness")
        objectness = None if objectness is None else objectness.reshape(covered.shape)
        return cls(
            targets, boxes, predictions.logits, predicted, priors, covered, priors.strides[None, None], objectness
        )

    def at(self, index: Tensor) -> Self:
        """Return the same scene with only the priors of these indices (B, A)."""
        rows = (torch.arange(len(index), device=index.device)[:, None] * self.covered.shape[1] + index).flatten()
        shape = (len(index), 1, self.covered.shape[1])
        strides = self.strides.expand(shape).gather(2, index.unsqueeze(1))
        boxes, centers = (_of_each(t, index) for t in (self.priors.boxes, self.priors.centers))
        return replace(
            self,
            logits=self.logits.flatten(0, 1).index_select(0, rows).unflatten(0, index.shape),
            predicted=_of_each(self.predicted, index),
            priors=Priors(boxes, centers, strides.squeeze(1)),
            covered=self.covered.gather(1, index),
            strides=strides,
            objectness=None if self.objectness is None else self.objectness.gather(1, index),
        )

    def class_logits(self, images: slice, objects: slice) -> Tensor:
        """Logits of the classes of a block of objects at all priors: (b, g, L) float32, for the caller to overwrite."""
        labels, logits = self.targets.labels[images, objects], self.logits[images]
        if len(labels) == 1:  # whole columns, which is several times faster than single elements
            return logits[0].t().index_select(0, labels[0]).to(torch.float32).unsqueeze(0)
        logits = logits.gather(2, labels.unsqueeze(1).expand(-1, logits.shape[1], -1))  # (b, L, g)
        return logits.to(torch.float32).transpose(1, 2).contiguous()

    def logits_at(self, prior: Tensor, index: Tensor) -> Tensor:
        """Logit of a prior and an object's class, both by index (B, N), meaningless where negative: (B, N) float32."""
        labels = self.targets.labels.gather(1, index.clamp(min=0))
        return self.logits.flatten(1).gather(1, prior * self.logits.shape[2] + labels).to(torch.float32)

    def boxes_of(self, index: Tensor) -> Tensor:
        """Boxes of objects by index (B, N): (B, N, 4)."""
        return self.boxes.gather(1, index.clamp(min=0).unsqueeze(-1).expand(-1, -1, 4))


def check_predictions(priors: Priors, targets: Targets, predictions: Predictions) -> None:
    """Raise ValueError unless there is one per image and prior, and, where the host need not wait, for every label."""
    logits, shape = predictions.logits, (len(targets), len(priors))
    if logits.shape[:2] != shape or (predictions.boxes is not None and predictions.boxes.shape[:2] != shape):
        boxes = None if predictions.boxes is None else tuple(predictions.boxes.shape)
        raise ValueError(
            f"{shape[0]} images and {shape[1]} priors need logits (B, L, C) and boxes (B, L, 4) of B = {shape[0]}, "
            f"L = {shape[1]}, got {tuple(logits.shape)} and {boxes}"
        )
    if logits.device.type != "cpu" or torch.compiler.is_compiling():
        return
    classes = logits.shape[-1]
    unknown = targets.labels[(targets.labels < 0) | (targets.labels >= classes)]
    if len(unknown):
        raise ValueError(
            f"labels must be 0 to {classes - 1} for logits of {counted(classes, 'class')}, got {int(unknown[0])}"
        )


def _of_each(per_prior: Tensor, index: Tensor) -> Tensor:
    """Look up (L, D) or (B, L, D) at (B, A) indices: (B, A, D), stored coordinate by coordinate."""
    planes = per_prior.movedim(-1, 0)
    planes = (planes.unsqueeze(1) if planes.ndim == 2 else planes).expand(-1, len(index), -1)
    return planes.gather(2, index.expand(len(planes), -1, -1)).movedim(0, -1)
