"""Fixed-size blocks of (image, object) pairs: what keeps memory at B·L instead of B·G·L."""

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from boxwright.structures import BACKGROUND, IGNORED, Assignment

__all__ = ["BLOCK_ELEMENTS", "block_elements", "blocks", "clean_boxes", "no_matches", "of_images", "over_objects"]

BLOCK_ELEMENTS: Final = {"cpu": 2**18, "cuda": 2**24}  # a few planes of a CPU block stay in the cache
_FAR: Final = 1e9  # pixels: the areas of boxes within it are finite


def block_elements(tensor: Tensor) -> int:
    """How many elements a block may have on the device of a tensor."""
    return BLOCK_ELEMENTS.get(tensor.device.type, 2**22)


def blocks(boxes: Tensor, priors: int) -> Iterator[tuple[slice, slice]]:
    """Yield slices of images and of objects of `boxes` (B, G, 4) that with L priors make blocks of bounded size.

    Where the host can look without waiting, padding behind the last object of an image is left out.
    """
    images, objects = boxes.shape[:2]
    counts = _counts(boxes)
    budget = block_elements(boxes)
    image_step = max(1, min(images, budget // max(objects * priors, 1)))
    object_step = max(1, min(objects, budget // max(priors, 1)))
    for image in range(0, images, image_step):
        count = max(counts[image : image + image_step])
        for first in range(0, count, object_step):
            yield slice(image, image + image_step), slice(first, min(first + object_step, count))


def _counts(boxes: Tensor) -> list[int]:
    """How many entries of each image come up to the last object, where the host is the device; else all."""
    images, objects = boxes.shape[:2]
    if boxes.device.type != "cpu" or torch.compiler.is_compiling():
        return [objects] * images
    number = torch.arange(1, objects + 1, device=boxes.device) * (boxes[..., 0] >= -_FAR)
    return [max(row, default=0) for row in number.tolist()]


def clean_boxes(boxes: Tensor, keep: Tensor | None = None) -> Tensor:
    """Return boxes (…, 4) in at least single precision, without NaN and so close that no area overflows.

    They are stored coordinate by coordinate, which saves `box_iou` a copy per block. Where `keep` (…) is False, the
    box is moved to where it meets nothing.
    """
    planes = boxes.to(torch.promote_types(boxes.dtype, torch.float32)).movedim(-1, 0).contiguous()
    planes = planes.nan_to_num().clamp_(-_FAR, _FAR)
    if keep is not None:
        planes = planes.where(keep, -2 * _FAR)
    return planes.movedim(0, -1)


def no_matches(boxes: Tensor, covered: Tensor) -> Assignment | None:
    """Return the assignment where there are no boxes (B, G, 4), no priors or no images; None where there are.

    Args:
        boxes: (B, G, 4).
        covered: (B, L) bool, priors in a region to ignore.
    """
    if 0 not in (*covered.shape, boxes.shape[1]):
        return None
    index = torch.where(covered, IGNORED, BACKGROUND)
    return Assignment(index, torch.zeros_like(index, dtype=torch.float32))


def over_objects(block: Tensor) -> Tensor:
    """Largest value over the objects of a block (b, g, L): (b, L)."""
    return block.amax(1) if block.shape[1] > 1 else block.squeeze(1)


def of_images(per_prior: Tensor, images: slice) -> Tensor:
    """Cut (B, L, …) to some images; what all images share, (L, …) or (1, …), stays."""
    return per_prior if per_prior.ndim == 2 or len(per_prior) == 1 else per_prior[images]
