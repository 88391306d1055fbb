"""Pictures of boxes to look at again: crops of the stored images, and what is drawn on them."""

from collections.abc import Sequence
from typing import Any, Final

import torch
from PIL import Image
from torch import Tensor

from boxwright.boxes import box_iou
from boxwright.data.dataset import read_record
from boxwright.data.records import ImageRecord
from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.suspects import Suspects
from boxwright.study.inspection.unlabelled import Unlabelled
from boxwright.study.pictures import data_uri

__all__ = ["draw_detection", "draw_object"]

_LONGEST: Final = 320  # pixels of an embedded crop
_LARGER: Final = 2.0  # a small crop is enlarged by no more: the browser does the rest
_MARGIN: Final = 0.6  # of the box's longer side, around it


def draw_object(
    inputs: Inputs, records: Sequence[ImageRecord], scale: Tensor, suspects: Suspects, row: int
) -> dict[str, Any]:
    """Draw an annotated object: its box, the predicted one, and the distribution of each side.

    Args:
        inputs: the data set.
        records: its images.
        scale: (images, 4) pixels of the stored image to one of the input, for each side of a box.
        suspects: its objects.
        row: which object.

    Returns:
        `picture`, a crop as a data URI, its `width` and `height` in pixels of the stored image, and in such pixels from
        its corner the `box`, the boxes of the `others` that are annotated beside it, and the `predicted` one. Four
        sides each: the share of its length that it is spread (`spread`), its `peaks` (first, second) with the
        `prominence` of the second, and the `place` and `probability` of the bins.

    Raises:
        DataError: the image cannot be read.
    """
    image = int(inputs.image[row])
    annotated = _annotated(inputs, scale, image)
    own = row - int(inputs.first[image])
    entry, corner = _crop(records[image], annotated[own], torch.cat([annotated[:own], annotated[own + 1 :]]))
    sides, along = suspects.sides, scale[image]
    return entry | {
        "predicted": _round(sides.boxes[row] * along - corner),
        "spread": _round(suspects.spread[row], 3),
        "peaks": [_round(where[row] * along - corner) for where in (suspects.peaks.first, suspects.peaks.second)],
        "prominence": _round(suspects.peaks.prominence[row], 3),
        "place": [_round(side) for side in sides.place[row] * along[:, None] - corner[:, None]],
        "probability": [_round(side, 3) for side in sides.probability[row]],
    }


def draw_detection(
    inputs: Inputs, records: Sequence[ImageRecord], scale: Tensor, unlabelled: Unlabelled, row: int
) -> dict[str, Any]:
    """Draw a detection without an annotation: as `draw_object` does, but with no more than its box and the others.

    Raises:
        DataError: the image cannot be read.
    """
    image = int(unlabelled.image[row])
    return _crop(records[image], unlabelled.boxes[row] * scale[image], _annotated(inputs, scale, image))[0]


def _annotated(inputs: Inputs, scale: Tensor, image: int) -> Tensor:
    rows = slice(int(inputs.first[image]), int(inputs.first[image + 1]))
    return torch.from_numpy(inputs.boxes[rows]) * scale[image]


def _crop(record: ImageRecord, box: Tensor, others: Tensor) -> tuple[dict[str, Any], Tensor]:
    """Cut a box out of its image with what surrounds it, and return the corner (x, y, x, y) of the cut as well."""
    pixels = Image.fromarray(read_record(record).permute(1, 2, 0).numpy())
    margin = _MARGIN * float((box[2:] - box[:2]).max()) + 2
    x1, y1 = (max(0, int(edge - margin)) for edge in box[:2].tolist())
    x2 = min(pixels.width, int(box[2] + margin) + 1)
    y2 = min(pixels.height, int(box[3] + margin) + 1)
    crop = pixels.crop((x1, y1, x2, y2))
    inside = box_iou(others, torch.tensor([[x1, y1, x2, y2]], dtype=torch.float32))[:, 0] > 0
    corner = torch.tensor([x1, y1, x1, y1])
    entry = {
        "picture": data_uri(crop, min(_LARGER, _LONGEST / max(crop.size))),
        "width": crop.width,
        "height": crop.height,
        "box": _round(box - corner),
        "others": [_round(other - corner) for other in others[inside]],
    }
    return entry, corner


def _round(values: Tensor, digits: int = 1) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
