"""Training images made of several: mosaic and mix-up, with the boxes, labels and crowd flags of all of them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional as F  # the name it has everywhere

from boxwright.data.transforms import FILL, fitted

__all__ = ["Mix", "mix_up", "mosaic"]

Sample = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mix:
    """What happens to an image before and after the transform of single images.

    Attributes:
        side: of a quarter of a mosaic, in pixels.
        mosaic: probability that four images become one.
        mixup: probability that a second image, mosaic or not, is laid over the result.
    """

    side: int
    mosaic: float = 0.0
    mixup: float = 0.0

    def __call__(self, first: Sample, draw: Callable[[], Sample], transform: Callable[[Sample], Sample]) -> Sample:
        """Return a transformed sample of `first` and as many more as are drawn."""
        sample = transform(self._assembled(first, draw))
        if self.mixup and torch.rand(()) < self.mixup:
            sample = mix_up(sample, transform(self._assembled(draw(), draw)))
        return sample

    def _assembled(self, first: Sample, draw: Callable[[], Sample]) -> Sample:
        if self.mosaic and torch.rand(()) < self.mosaic:
            return mosaic([first, draw(), draw(), draw()], self.side)
        return first


def mosaic(samples: Sequence[Sample], side: int) -> Sample:
    """Put four images around a random point of a square of 2 · `side`; what does not fit is cut off at its edge.

    Bochkovskiy et al. 2020 (YOLOv4), arXiv:2004.10934; the point lies between a quarter and three quarters of the
    square, as in YOLOv5. Boxes that reach beyond the edge are left to `Sanitize`.

    Args:
        samples: four, each with `image`, `boxes`, `labels`, `crowd` (see `boxwright.data.transforms`).
        side: each image is fitted into a square of it.
    """
    x, y = (int(value) for value in (side * (0.5 + torch.rand(2))).round())
    canvas = _canvas(2 * side, 2 * side)
    moved = []
    for index, sample in enumerate(samples):
        height, width = fitted(sample["image"].shape[-2], sample["image"].shape[-1], side)
        image = F.resize(sample["image"], [height, width], antialias=True)
        boxes = F.resize(sample["boxes"], [height, width])
        # above or below the point, left or right of it
        top, left = y - height * (index < 2), x - width * (index % 2 == 0)
        _paste(canvas, image.as_subclass(Tensor), top, left)
        moved.append(boxes.as_subclass(Tensor) + torch.tensor([left, top, left, top]))
    return _combined(samples, canvas, moved)


def mix_up(first: Sample, second: Sample) -> Sample:
    """Lay two images over each other, half of each, with the objects of both.

    Zhang et al. 2018, arXiv:1710.09412, for detection as in YOLOX (Ge et al. 2021, arXiv:2107.08430).
    """
    height, width = (max(pair) for pair in zip(first["image"].shape[-2:], second["image"].shape[-2:], strict=True))
    layers = []
    for sample in (first, second):
        canvas = _canvas(height, width)
        _paste(canvas, sample["image"].as_subclass(Tensor), 0, 0)
        layers.append(canvas)
    mixed = ((layers[0].to(torch.int16) + layers[1]) // 2).to(torch.uint8)
    return _combined([first, second], mixed, [sample["boxes"].as_subclass(Tensor) for sample in (first, second)])


def _canvas(height: int, width: int) -> Tensor:
    return torch.tensor(FILL, dtype=torch.uint8).view(3, 1, 1).repeat(1, height, width)


def _paste(canvas: Tensor, image: Tensor, top: int, left: int) -> None:
    """Put an image (3, h, w) onto a canvas, as far as it lies inside; `top` and `left` may be negative."""
    height, width = canvas.shape[-2:]
    inside = image[:, max(-top, 0) : height - top, max(-left, 0) : width - left]
    top, left = max(top, 0), max(left, 0)
    canvas[:, top : top + inside.shape[-2], left : left + inside.shape[-1]] = inside


def _combined(samples: Sequence[Sample], image: Tensor, boxes: Sequence[Tensor]) -> Sample:
    size = (image.shape[-2], image.shape[-1])
    return {
        "image": tv_tensors.Image(image),
        "boxes": tv_tensors.BoundingBoxes(torch.cat([*boxes]), format="XYXY", canvas_size=size, clamping_mode=None),
        "labels": torch.cat([sample["labels"] for sample in samples]),
        "crowd": torch.cat([sample["crowd"] for sample in samples]),
    }
