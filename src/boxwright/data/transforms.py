"""Augmentation on tv_tensors: boxes, labels and crowd flags stay together through every step.

A sample on its way is a dictionary with `image` (`tv_tensors.Image`, (3, height, width) uint8), `boxes`
(`tv_tensors.BoundingBoxes`, (n, 4) xyxy in pixels of that image), `labels` (n,) int64 and `crowd` (n,) bool. Every step
is a `torchvision.transforms.v2` transform, so others can be put between them. The image content always starts at the
top left corner; padding to a common size is added when samples become a batch.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torchvision import tv_tensors
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F  # the name it has everywhere

from boxwright.boxes import box_iou, clip_boxes

__all__ = [
    "IoUCrop",
    "Photometric",
    "Resize",
    "Sanitize",
    "ZoomCrop",
    "evaluation_transform",
    "training_transform",
]

Size = int | tuple[int, int]
FILL = (124, 116, 104)  # the mean colour of ImageNet, which normalisation turns into about zero


def training_transform(
    size: Size,
    *,
    horizontal_flip: float = 0.5,
    vertical_flip: float = 0.0,
    scale_jitter: tuple[float, float] | None = None,
    expand: float = 0.0,
    iou_crop: float = 0.0,
    photometric: float = 0.0,
) -> v2.Transform:
    """Build the random changes of a training image.

    Args:
        size: side of the square that the image is fitted into, or (short, long): short side resized, long side bounded.
        horizontal_flip: probability.
        vertical_flip: probability.
        scale_jitter: range of the zoom: above 1 a part of the image fills the frame, below 1 the image shrinks.
        expand: probability of SSD's expansion: the image at a random place of a canvas with 1 to 4 times its sides.
        iou_crop: probability of SSD's crop by minimum overlap.
        photometric: strength of colour changes; 1 are SSD's.
    """
    steps: list[v2.Transform] = []
    if expand:
        steps.append(v2.RandomZoomOut(fill=FILL, side_range=(1.0, 4.0), p=expand))
    if iou_crop:
        steps.append(v2.RandomApply([IoUCrop()], p=iou_crop))
    steps.append(ZoomCrop(size, scale_jitter) if scale_jitter else Resize(size))
    if horizontal_flip:
        steps.append(v2.RandomHorizontalFlip(horizontal_flip))
    if vertical_flip:
        steps.append(v2.RandomVerticalFlip(vertical_flip))
    if photometric:
        steps.append(Photometric(photometric))
    return v2.Compose([*steps, Sanitize()])


def evaluation_transform(size: Size) -> v2.Transform:
    """Build the deterministic resize of evaluation and prediction; `size` as in `training_transform`."""
    return v2.Compose([Resize(size), Sanitize(min_visible=0.0)])


def fitted(height: int, width: int, size: Size) -> tuple[int, int]:
    """Return (height, width) of an image resized to `size` with its aspect ratio kept.

    >>> fitted(480, 640, 320), fitted(480, 640, (800, 1333)), fitted(400, 1000, (800, 1333))
    ((240, 320), (800, 1067), (533, 1333))
    """
    short, long = size if isinstance(size, tuple) else (size, size)
    scale = min(short / min(height, width), long / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


class Resize(v2.Transform):
    """Resize to fit a square of side `size`, or to (short, long), keeping the aspect ratio."""

    def __init__(self, size: Size) -> None:
        super().__init__()
        self.size = size

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Find the size that this image gets."""
        return {"size": list(fitted(*_size_of(flat_inputs), self.size))}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Resize an image or its boxes."""
        return self._call_kernel(F.resize, inpt, antialias=True, **params)


class ZoomCrop(v2.Transform):
    """Zoom by a random factor, log-uniform in `scale`, relative to what `Resize(size)` gives.

    What no longer fits is cut at a random place: from a square of side `size`, or from the image itself where `size`
    is (short, long). Crop and resize are one interpolation. With a square this is large scale jitter (Ghiasi et al.
    2021, arXiv:2012.07177).
    """

    def __init__(self, size: Size, scale: tuple[float, float]) -> None:
        super().__init__()
        if not 0 < scale[0] <= scale[1]:
            raise ValueError(f"scale must be (low, high) with 0 < low <= high, got {scale}")
        self.size, self.scale = size, scale

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the part of the image and find the size that it gets."""
        height, width = _size_of(flat_inputs)
        low, high = (math.log(bound) for bound in self.scale)
        draw, y, x = torch.rand(3).tolist()
        zoom = math.exp(low + (high - low) * draw)
        whole = fitted(height, width, self.size)
        frame = whole if isinstance(self.size, tuple) else (self.size, self.size)
        shown = [min(1.0, limit / (side * zoom)) for limit, side in zip(frame, whole, strict=True)]
        part = [max(1, round(side * share)) for side, share in zip((height, width), shown, strict=True)]
        size = [max(1, round(side * zoom * share)) for side, share in zip(whole, shown, strict=True)]
        top, left = round((height - part[0]) * y), round((width - part[1]) * x)
        return {"top": top, "left": left, "height": part[0], "width": part[1], "size": size}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Crop and resize an image or its boxes."""
        return self._call_kernel(F.resized_crop, inpt, antialias=True, **params)


class IoUCrop(v2.RandomIoUCrop):
    """SSD's crop by minimum overlap (Liu et al. 2016, arXiv:1512.02325), all trials at once.

    The part has 0.3 to 1 of each side, an aspect ratio of 0.5 to 2 and, with an object whose centre it contains, at
    least the drawn IoU; objects with their centre outside are dropped. Where no trial succeeds the image stays whole.
    """

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the minimum overlap and the first crop that has it."""
        boxes = next(value for value in flat_inputs if isinstance(value, tv_tensors.BoundingBoxes)).as_subclass(Tensor)
        minimum = self.options[int(torch.randint(len(self.options), ()))]
        if minimum >= 1 or len(boxes) == 0:
            return {}
        size = torch.tensor(_size_of(flat_inputs)).flip(0)  # width, height
        sides = (size * torch.empty(self.trials, 2).uniform_(self.min_scale, self.max_scale)).floor().clamp(min=1)
        corners = ((size - sides) * torch.rand(self.trials, 2)).floor()
        crops = torch.cat([corners, corners + sides], dim=1)
        aspect = sides[:, 0] / sides[:, 1]
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        inside = ((centres > crops[:, None, :2]) & (centres < crops[:, None, 2:])).all(dim=2)  # (trials, n)
        overlap = (box_iou(crops, boxes) * inside).amax(dim=1)
        fits = (aspect >= self.min_aspect_ratio) & (aspect <= self.max_aspect_ratio)
        good = fits & inside.any(dim=1) & (overlap >= minimum)
        if not good.any():
            return {}
        first = int(good.to(torch.uint8).argmax())
        left, top, right, bottom = (int(side) for side in crops[first])
        area = {"top": top, "left": left, "height": bottom - top, "width": right - left}
        return {**area, "is_within_crop_area": inside[first]}


class Photometric(v2.Transform):
    """Random contrast, brightness, saturation and hue as one affine map of the colours.

    At strength 1 the ranges are SSD's: factors 0.5 to 1.5 for contrast and saturation, +-32 of 255 for brightness,
    +-18 degrees of hue, each applied to half of the images. Hue turns the colours about the grey axis.
    """

    def __init__(self, strength: float = 1.0) -> None:
        super().__init__()
        self.strength = strength

    def make_params(self, flat_inputs: list[Any]) -> dict[str, Any]:
        """Draw the colour map, `colours @ matrix.T + shift`, with its contrast about the middle grey."""
        draws = torch.rand(8)
        contrast, brightness, saturation, hue = ((draws[:4] * 2 - 1) * self.strength * (draws[4:] < 0.5)).tolist()
        angle = hue * math.pi / 10
        grey, sine, cosine = torch.full((3, 3), 1 / 3), math.sin(angle), math.cos(angle)
        cross = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]]) / math.sqrt(3)
        colour = max(0.0, 1 + saturation / 2) * (cosine * (torch.eye(3) - grey) + sine * cross)
        contrast = max(0.0, 1 + contrast / 2)
        return {"matrix": contrast * (grey + colour), "shift": 127.5 * (1 - contrast) + 32 * brightness}

    def transform(self, inpt: Any, params: dict[str, Any]) -> Any:
        """Map the colours of an image; boxes pass."""
        if not isinstance(inpt, tv_tensors.Image):
            return inpt
        pixels = inpt.as_subclass(Tensor)
        colours = params["matrix"] @ pixels.flatten(1).float() + params["shift"]
        return tv_tensors.Image(colours.round_().clamp_(0, 255).to(torch.uint8).view(pixels.shape))


class Sanitize(torch.nn.Module):
    """Clip the boxes to the image and drop those that are gone, with their labels and crowd flags.

    Args:
        min_visible: share of an object's area that must be left inside the image; crowd regions may be cut at will.
        min_side: shortest side that a box may have, in pixels.
    """

    def __init__(self, min_visible: float = 0.1, min_side: float = 1.0) -> None:
        super().__init__()
        self.min_visible, self.min_side = min_visible, min_side

    def forward(self, sample: dict[str, Any]) -> dict[str, Any]:
        """Return a sample whose boxes are all inside the image and not degenerate."""
        boxes = sample["boxes"].as_subclass(Tensor)
        clipped = clip_boxes(boxes, tuple(sample["image"].shape[-2:]))
        sides, whole = clipped[:, 2:] - clipped[:, :2], boxes[:, 2:] - boxes[:, :2]
        visible = sides.prod(dim=1) >= self.min_visible * whole.prod(dim=1)
        keep = (sides >= self.min_side).all(dim=1) & (visible | sample["crowd"])
        return {
            **sample,
            "boxes": tv_tensors.wrap(clipped[keep], like=sample["boxes"]),
            "labels": sample["labels"][keep],
            "crowd": sample["crowd"][keep],
        }


def _size_of(flat_inputs: list[Any]) -> tuple[int, int]:
    height, width = next(value for value in flat_inputs if isinstance(value, tv_tensors.Image)).shape[-2:]
    return height, width
