"""The padded ground truth of a batch."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from boxwright.structures.base import TensorStruct


@dataclass(frozen=True, eq=False, slots=True)
class Targets(TensorStruct):
    """Objects of B images, padded to the same number G (which may be 0).

    Attributes:
        boxes: (B, G, 4) float32, x1, y1, x2, y2 in absolute pixels; zeros where padded.
        labels: (B, G) int64, class index from 0; 0 where padded.
        valid: (B, G) bool, False where padded.
        crowd: (B, G) bool, regions to ignore: neither matched nor counted as background. Only where `valid`.
        has_crowd: False promises that `crowd` is nowhere True, so that nobody has to look on the device; True if in
            doubt. Not a tensor: compiled code is made once for each.
    """

    boxes: Tensor
    labels: Tensor
    valid: Tensor
    crowd: Tensor
    has_crowd: bool = True

    @classmethod
    def from_list(cls, targets: Sequence[Mapping[str, Tensor]], pad_to_multiple: int = 1) -> Self:
        """Pad torchvision's list of dictionaries (`boxes`, `labels`, optional `iscrowd`) and validate it.

        Args:
            targets: one mapping per image, `boxes` (n, 4) xyxy in pixels, `labels` (n,) integers from 0.
            pad_to_multiple: round G up to a multiple, so that compiled code sees few shapes.

        Raises:
            ValueError: a shape is wrong, a box is inverted or not finite, or a label no integer or negative; names the
                image.
        """
        if isinstance(targets, Mapping):
            raise ValueError("targets must be a list with one mapping per image, got one mapping")
        for index, target in enumerate(targets):
            _validate(index, target)
        most = max((len(target["boxes"]) for target in targets), default=0)
        padded = -(-most // pad_to_multiple) * pad_to_multiple
        shape = (len(targets), padded)
        device = targets[0]["boxes"].device if targets else torch.device("cpu")
        boxes = torch.zeros(*shape, 4, dtype=torch.float32, device=device)
        labels = torch.zeros(shape, dtype=torch.int64, device=device)
        valid = torch.zeros(shape, dtype=torch.bool, device=device)
        crowd = torch.zeros(shape, dtype=torch.bool, device=device)
        for index, target in enumerate(targets):
            count = len(target["boxes"])
            boxes[index, :count] = target["boxes"].to(torch.float32)
            labels[index, :count] = target["labels"]
            valid[index, :count] = True
            if "iscrowd" in target:
                crowd[index, :count] = target["iscrowd"].to(torch.bool)
        return cls(boxes, labels, valid, crowd, has_crowd=bool(crowd.any()))

    def to_list(self) -> list[dict[str, Tensor]]:
        """Unpad into torchvision's list of dictionaries (synchronises with the device)."""
        return [
            {"boxes": boxes[valid], "labels": labels[valid], "iscrowd": crowd[valid]}
            for boxes, labels, valid, crowd in zip(self.boxes, self.labels, self.valid, self.crowd, strict=True)
        ]

    @property
    def objects(self) -> Tensor:
        """(B, G) bool: entries that are to be detected (neither padding nor crowd)."""
        return self.valid & ~self.crowd

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.boxes)

    def __getitem__(self, images: int | slice) -> Self:
        """Return the targets of one image (kept as a batch of one) or of a slice of images."""
        if isinstance(images, int):
            images = slice(images, images + 1 or None)
        return self.map(lambda tensor: tensor[images])


def _validate(index: int, target: Mapping[str, Tensor]) -> None:
    if not {"boxes", "labels"} <= target.keys():
        raise ValueError(f"targets[{index}] must have 'boxes' and 'labels', it has {', '.join(map(repr, target))}")
    boxes, labels = target["boxes"], target["labels"]
    if boxes.ndim != 2 or boxes.shape[-1] != 4:
        raise ValueError(f"targets[{index}]['boxes'] must have shape (n, 4), got {tuple(boxes.shape)}")
    if labels.shape != boxes.shape[:1]:
        raise ValueError(
            f"targets[{index}]['labels'] must have shape ({len(boxes)},) like its boxes, got {tuple(labels.shape)}"
        )
    if labels.is_floating_point() and len(labels):
        raise ValueError(f"targets[{index}]['labels'] must be integers, got {labels.dtype}")
    if not torch.isfinite(boxes).all():
        raise ValueError(f"targets[{index}]['boxes'] holds a value that is not finite")
    inverted = (boxes[:, 2:] < boxes[:, :2]).any(dim=1)
    if inverted.any():
        row = int(inverted.nonzero()[0])
        raise ValueError(
            f"targets[{index}]['boxes'][{row}] = {boxes[row].tolist()} is inverted; boxes are x1, y1, x2, y2 in pixels"
        )
    if (labels < 0).any():
        raise ValueError(f"targets[{index}]['labels'] holds a negative class; classes count from 0")
