"""The objects of a data set as the network will see them, in batches; only boxes are read, no image is decoded."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.boxes import AnchorGenerator, PointGenerator, box_iou, clip_boxes
from boxwright.data.dataset import STRIDE
from boxwright.data.records import ImageRecord
from boxwright.data.transforms import Sanitize, Size, fitted
from boxwright.structures import Priors, Targets

__all__ = ["Frame", "InputBatch", "Inputs", "PriorGenerator", "priors_of"]

PriorGenerator = AnchorGenerator | PointGenerator
_PRIORS_AT_ONCE: Final = 2**21  # (image, prior) pairs of a batch: 16 MB per int64 tensor


@dataclass(frozen=True, eq=False, slots=True)
class Frame:
    """One image at the network's input.

    Attributes:
        record: index of the image.
        size: (height, width) of the content.
        canvas: (height, width) with padding, as the network gets it.
        boxes: (n, 4) xyxy in input pixels, clipped to the content; what the evaluation transform keeps.
        labels: (n,) int64.
        crowd: (n,) bool, regions to ignore.
        vanished: objects that the resize leaves less than a pixel wide or high; they are in no batch of a training.
    """

    record: int
    size: tuple[int, int]
    canvas: tuple[int, int]
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    vanished: int

    @classmethod
    def of(cls, index: int, record: ImageRecord, size: Size) -> Self:
        """Scale a record's boxes as `evaluation_transform(size)` does, without its image."""
        height, width = fitted(record.height, record.width, size)
        square = (size, size) if isinstance(size, int) else (height, width)
        canvas = (-(-square[0] // STRIDE) * STRIDE, -(-square[1] // STRIDE) * STRIDE)
        scale = torch.tensor([width / record.width, height / record.height]).repeat(2)
        boxes = clip_boxes(record.boxes * scale, (height, width))
        keep = (boxes[:, 2:] - boxes[:, :2] >= Sanitize(min_visible=0.0).min_side).all(dim=1)
        vanished = int((~keep & ~record.crowd).sum())
        return cls(index, (height, width), canvas, boxes[keep], record.labels[keep], record.crowd[keep], vanished)

    def to_stored(self, record: ImageRecord) -> list[float]:
        """Return the factors of a box's sides (x1, y1, x2, y2) from input pixels to those of the stored image."""
        height, width = self.size
        return [record.width / width, record.height / height] * 2

    def targets(self) -> dict[str, Tensor]:
        """Return what `Targets.from_list` takes."""
        return {"boxes": self.boxes, "labels": self.labels, "iscrowd": self.crowd}


@dataclass(frozen=True, eq=False, slots=True)
class InputBatch:
    """Some images of one canvas.

    Attributes:
        frames: B images.
        priors: L priors of their canvas.
        targets: their G objects and crowd regions, padded.
        rows: (B, G) int64, which object of `Inputs` each entry is; -1 for crowd and padding.
    """

    frames: list[Frame]
    priors: Priors
    targets: Targets
    rows: Tensor


@dataclass(frozen=True, eq=False, slots=True)
class Inputs:
    """All images of a split, and their N objects (neither crowd nor vanished) as columns.

    Attributes:
        frames: one per image.
        image: (N,) index of the object's image.
        boxes: (N, 4) xyxy in input pixels.
        labels: (N,) class.
        crowding: (N,) largest IoU with another object of the image, 0 where it overlaps none.
        first: (images + 1,) the objects of image i are `first[i]` to `first[i + 1]`.
    """

    frames: list[Frame]
    image: NDArray[np.int64]
    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]
    crowding: NDArray[np.float32]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, records: Sequence[ImageRecord], size: Size) -> Self:
        """Lay out records at the network's input size, as `data.size` of a recipe."""
        frames = [Frame.of(index, record, size) for index, record in enumerate(records)]
        boxes = [frame.boxes[~frame.crowd] for frame in frames]
        counts = np.array([len(some) for some in boxes], dtype=np.int64)
        return cls(
            frames,
            np.repeat(np.arange(len(frames)), counts),
            torch.cat([*boxes, torch.zeros(0, 4)]).numpy(),
            torch.cat([*(f.labels[~f.crowd] for f in frames), torch.zeros(0, dtype=torch.int64)]).numpy(),
            torch.cat([*(_crowding(some) for some in boxes), torch.zeros(0)]).numpy(),
            np.concatenate([[0], np.cumsum(counts)]),
        )

    def __len__(self) -> int:
        """Return the number of objects."""
        return len(self.image)

    @property
    def vanished(self) -> int:
        """Objects that are too small to reach the network."""
        return sum(frame.vanished for frame in self.frames)

    def batches(self, prior_generator: PriorGenerator, most: int = 64) -> Iterator[InputBatch]:
        """Yield every image once, together with others of its canvas and about as many objects, for little padding.

        Args:
            prior_generator: the priors of a recipe.
            most: images per batch; fewer where there are many priors.
        """
        order = sorted(self.frames, key=lambda frame: (frame.canvas, len(frame.boxes)))
        start = 0
        while start < len(order):
            canvas = order[start].canvas
            priors = priors_of(prior_generator, canvas)
            stop = start + max(1, min(most, _PRIORS_AT_ONCE // max(len(priors), 1)))
            frames = [frame for frame in order[start:stop] if frame.canvas == canvas]
            yield self.batch(frames, priors)
            start += len(frames)

    def batch(self, frames: list[Frame], priors: Priors) -> InputBatch:
        """Put images of one canvas together."""
        targets = Targets.from_list([frame.targets() for frame in frames])
        first = torch.from_numpy(self.first)[[frame.record for frame in frames]]
        rows = first.unsqueeze(1) + targets.objects.long().cumsum(1) - 1
        return InputBatch(frames, priors, targets, rows.where(targets.objects, -1))


def priors_of(prior_generator: PriorGenerator, canvas: tuple[int, int]) -> Priors:
    """Lay the priors of a canvas; the sides of a level are rounded up, as strided convolutions do."""
    return prior_generator(
        [(-int(-canvas[0] // stride), -int(-canvas[1] // stride)) for stride in prior_generator.strides]
    )


def _crowding(boxes: Tensor) -> Tensor:
    """Largest IoU of each box (n, 4) with another one: (n,)."""
    if len(boxes) < 2:
        return torch.zeros(len(boxes))
    return box_iou(boxes, boxes).fill_diagonal_(0).amax(dim=1)
