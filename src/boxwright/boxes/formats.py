"""Box formats: xyxy (corners), xywh (corner and size), cxcywh (centre and size); area, scaling and clipping.

Everywhere inside boxwright a box is xyxy in absolute pixels; the other formats live at the borders.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

__all__ = [
    "BoxFormat",
    "at_least_float32",
    "box_area",
    "box_convert",
    "clip_boxes",
    "cxcywh_to_xyxy",
    "scale_boxes",
    "xywh_to_xyxy",
    "xyxy_to_cxcywh",
    "xyxy_to_xywh",
]

BoxFormat = Literal["xyxy", "xywh", "cxcywh"]


def at_least_float32(tensor: Tensor) -> Tensor:
    """Turn half precision into float32, in which box arithmetic has the digits it needs; float64 keeps its own."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def cxcywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn centre and size (…, 4) into corners."""
    center, size = boxes[..., :2], boxes[..., 2:]
    return torch.cat([center - size / 2, center + size / 2], dim=-1)


def xyxy_to_cxcywh(boxes: Tensor) -> Tensor:
    """Turn corners (…, 4) into centre and size."""
    low, high = boxes[..., :2], boxes[..., 2:]
    return torch.cat([(low + high) / 2, high - low], dim=-1)


def xywh_to_xyxy(boxes: Tensor) -> Tensor:
    """Turn upper left corner and size (…, 4) into corners."""
    return torch.cat([boxes[..., :2], boxes[..., :2] + boxes[..., 2:]], dim=-1)


def xyxy_to_xywh(boxes: Tensor) -> Tensor:
    """Turn corners (…, 4) into upper left corner and size."""
    return torch.cat([boxes[..., :2], boxes[..., 2:] - boxes[..., :2]], dim=-1)


_Conversion = Callable[[Tensor], Tensor]
_TO_XYXY: dict[str, _Conversion] = {"xyxy": torch.clone, "xywh": xywh_to_xyxy, "cxcywh": cxcywh_to_xyxy}
_FROM_XYXY: dict[str, _Conversion] = {"xyxy": torch.clone, "xywh": xyxy_to_xywh, "cxcywh": xyxy_to_cxcywh}


def box_convert(boxes: Tensor, source: BoxFormat, target: BoxFormat) -> Tensor:
    """Convert boxes (…, 4) from one format to another.

    Raises:
        ValueError: a format is unknown or the last dimension is not 4.

    >>> box_convert(torch.tensor([10.0, 20.0, 4.0, 6.0]), "xywh", "cxcywh")
    tensor([12., 23.,  4.,  6.])
    """
    for name, value in (("source", source), ("target", target)):
        if value not in _TO_XYXY:
            raise ValueError(f"{name} must be 'xyxy', 'xywh' or 'cxcywh', got {value!r}")
    if boxes.shape[-1:] != (4,):
        raise ValueError(f"boxes must have shape (…, 4), got {tuple(boxes.shape)}")
    return _FROM_XYXY[target](_TO_XYXY[source](boxes))


def box_area(boxes: Tensor) -> Tensor:
    """Area (…) of xyxy boxes (…, 4); an inverted box has area 0."""
    width, height = (boxes[..., 2:] - boxes[..., :2]).clamp(min=0).unbind(-1)
    return width * height


def scale_boxes(boxes: Tensor, width: float, height: float) -> Tensor:
    """Multiply the x of boxes (…, 4), or of sizes or points (…, 2), by `width` and their y by `height`.

    By numbers rather than by a tensor of them, which would be copied to the device at every call.
    """
    return torch.stack([boxes[..., 0::2] * width, boxes[..., 1::2] * height], dim=-1).flatten(-2)


def clip_boxes(boxes: Tensor, size: tuple[float, float] | Tensor) -> Tensor:
    """Move the corners of xyxy boxes (…, 4) into an image.

    Args:
        boxes: (…, 4) xyxy.
        size: (height, width) of the image, or a tensor (…, 2) of them that broadcasts against the boxes' batch shape.
    """
    limit = boxes.new_tensor(size) if isinstance(size, tuple) else size.to(boxes)
    height, width = limit.unbind(-1)
    return torch.minimum(boxes.clamp(min=0), torch.stack([width, height, width, height], dim=-1))
