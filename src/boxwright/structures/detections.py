"""The answer of a detector for a batch."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from boxwright.structures.base import TensorStruct


@dataclass(frozen=True, eq=False, slots=True)
class Detections(TensorStruct):
    """Up to K detections for each of B images, sorted by falling score; reads like torchvision's list of dictionaries.

    >>> import torch
    >>> detections = Detections(
    ...     boxes=torch.zeros(1, 3, 4), scores=torch.zeros(1, 3), labels=torch.zeros(1, 3, dtype=torch.int64),
    ...     count=torch.tensor([2]),
    ... )
    >>> [output["boxes"].shape for output in detections]
    [torch.Size([2, 4])]

    Attributes:
        boxes: (B, K, 4) xyxy in pixels of the image given to the detector.
        scores: (B, K) in 0..1.
        labels: (B, K) int64, class index from 0.
        count: (B,) int64, how many of the K entries of an image are real; the others are zeros.
    """

    boxes: Tensor
    scores: Tensor
    labels: Tensor
    count: Tensor

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.boxes)

    def __getitem__(self, image: int) -> dict[str, Tensor]:
        """Return the detections of one image without padding: `boxes`, `scores`, `labels`."""
        count = int(self.count[image])
        return {
            "boxes": self.boxes[image, :count],
            "scores": self.scores[image, :count],
            "labels": self.labels[image, :count],
        }

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield the detections of one image after the other."""
        return (self[image] for image in range(len(self)))
