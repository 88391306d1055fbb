"""One annotated image, as all parts of `boxwright.data` exchange it."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor


@dataclass(frozen=True)
class ImageRecord:
    """One image and its objects, with boxes as xyxy in pixels counted from 0.

    Shapes: `boxes` (n, 4) float32, `labels` (n,) int64 in 0…C−1, `crowd` (n,) bool (regions to ignore),
    `area` (n,) float32 in square pixels (COCO's annotation area, else width times height).
    """

    path: Path
    image_id: int
    width: int
    height: int
    boxes: Tensor
    labels: Tensor
    crowd: Tensor
    area: Tensor
