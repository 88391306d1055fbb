"""Objects that a network sees where nobody has annotated one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from boxwright.boxes import box_iou
from boxwright.structures import Detections
from boxwright.study.inspection.inputs import InputBatch
from boxwright.study.inspection.sides import FOUND

__all__ = ["SHOWN", "Unlabelled"]

SHOWN: Final = 0.3  # lowest score of a detection that counts; what `boxwright predict` draws


@dataclass(frozen=True, eq=False, slots=True)
class Unlabelled:
    """M detections that no annotation explains.

    They have a score of at least `SHOWN`, an IoU under `FOUND` with every annotated object of whatever class, and do
    not lie in a region to ignore.

    Attributes:
        image: (M,) int64 index of the image.
        boxes: (M, 4) xyxy in input pixels.
        labels: (M,) int64.
        scores: (M,).
        iou: (M,) with the annotated object that is nearest by it.
    """

    image: Tensor
    boxes: Tensor
    labels: Tensor
    scores: Tensor
    iou: Tensor

    @classmethod
    def of(cls, batch: InputBatch, detections: Detections) -> list[Self]:
        """Pick them from the detections of a batch: one entry per image."""
        parts = []
        for frame, found in zip(batch.frames, detections, strict=True):
            iou = _most(box_iou(found["boxes"], frame.boxes[~frame.crowd]))
            ignored = _most(box_iou(found["boxes"], frame.boxes[frame.crowd], "iof")) >= FOUND
            keep = (found["scores"] >= SHOWN) & (iou < FOUND) & ~ignored
            image = torch.full((int(keep.sum()),), frame.record)
            parts.append(cls(image, found["boxes"][keep], found["labels"][keep], found["scores"][keep], iou[keep]))
        return parts

    @classmethod
    def join(cls, parts: Sequence[Self]) -> Self:
        """Put entries together, the highest scores first and, of equal ones, in the order of the images."""
        names = ("image", "boxes", "labels", "scores", "iou")
        image, boxes, labels, scores, iou = (torch.cat([getattr(part, name) for part in parts]) for name in names)
        order = image.argsort(stable=True)
        order = order[scores[order].argsort(descending=True, stable=True)]
        return cls(image[order], boxes[order], labels[order], scores[order], iou[order])

    def __len__(self) -> int:
        """Return the number of detections."""
        return len(self.image)


def _most(overlap: Tensor) -> Tensor:
    """Largest of each row; 0 where there is nothing to overlap."""
    return overlap.amax(1) if overlap.shape[1] else overlap.new_zeros(len(overlap))
