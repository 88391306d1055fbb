"""From a caller's images to a batch a network can take, and boxes back again."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["ImageBatch", "batch_images"]

DIVISOR = 32  # the coarsest stride of the networks, which the sides of a batch are multiples of
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


class ImageBatch(NamedTuple):
    """Images resized and padded to one shape.

    Attributes:
        pixels: (B, 3, H, W).
        scales: (B, 4) factors from the caller's pixels to these, for x1, y1, x2, y2: both sides are whole pixels.
        sizes: (B, 2) height and width of each image inside the padding.
    """

    pixels: Tensor
    scales: Tensor
    sizes: Tensor


def batch_images(images: Sequence[Tensor], size: int | tuple[int, int]) -> ImageBatch:
    """Resize each image (3, h, w) keeping its shape, put it in the upper left corner, pad to one size.

    Args:
        images: uint8 0..255 or float 0..1, each of its own size.
        size: a number bounds the long side and makes the batch a square of that side; (short, long) sets the short side
            unless that pushes the long side over its bound, and pads both sides to multiples of 32.

    Raises:
        ValueError: there is no image, or one is not (3, h, w), uint8 or float.
    """
    if not images:
        raise ValueError("a detector needs at least one image, got an empty list")
    short, long = (size, size) if isinstance(size, int) else size
    resized = []
    for index, image in enumerate(images):
        if image.ndim != 3 or image.shape[0] != 3 or 0 in image.shape:
            raise ValueError(f"images[{index}] must have shape (3, height, width), got {tuple(image.shape)}")
        scale = min(short / min(image.shape[-2:]), long / max(image.shape[-2:]))
        height, width = (max(1, round(side * scale)) for side in image.shape[-2:])
        resized.append(F.interpolate(to_float(image)[None], size=(height, width), mode="bilinear", antialias=True)[0])
    given, sizes = (torch.tensor([image.shape[-2:] for image in some]) for some in (images, resized))
    most = (-(-side // DIVISOR) * DIVISOR for side in sizes.amax(dim=0).tolist())
    height, width = (size, size) if isinstance(size, int) else most
    # Padding has the mean colour, which normalisation turns into zero.
    pixels = torch.tensor(MEAN, device=resized[0].device).view(1, 3, 1, 1).repeat(len(resized), 1, height, width)
    for canvas, image in zip(pixels, resized, strict=True):
        canvas[:, : image.shape[-2], : image.shape[-1]] = image
    scales = (sizes / given).flip(1).repeat(1, 2)
    return ImageBatch(pixels, scales.to(pixels.device), sizes.to(pixels.device))


def to_float(images: Tensor) -> Tensor:
    """Images as float32 0..1.

    Raises:
        ValueError: they are integers other than uint8, whose range nobody knows.
    """
    if images.dtype == torch.uint8:
        return images.float() / 255
    if not images.is_floating_point():
        raise ValueError(f"images must be uint8 0..255 or float 0..1, got {images.dtype}")
    return images.float()
