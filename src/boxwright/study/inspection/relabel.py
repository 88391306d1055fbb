"""What to look at again in the annotations: suspicious boxes and missing ones, as lists, as CSV, and with pictures."""

import csv
import io
from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from boxwright.data.records import ImageRecord
from boxwright.study.inspection.crops import draw_detection, draw_object
from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.sides import FOUND, SIDES
from boxwright.study.inspection.suspects import REASONS, Suspects
from boxwright.study.inspection.unlabelled import Unlabelled

__all__ = ["COLUMNS", "NOT_ANNOTATED", "relabel", "relabel_csv"]

NOT_ANNOTATED: Final = "not annotated"
_NUMBERS: Final = {  # of an object, and to how many digits
    "x1": 1, "y1": 1, "x2": 1, "y2": 1, "score": 4, "iou": 4, "other_score": 4, "double_iou": 4, "offset": 4,
    "spread": 4, "first_peak": 1, "second_peak": 1, "prominence": 4,
}  # fmt: skip
COLUMNS: Final = (
    "image", "class", "x1", "y1", "x2", "y2", "reasons", "score", "iou", "other_class", "other_score", "double_iou",
    "offset_side", "offset", "spread_side", "spread", "peaks_side", "first_peak", "second_peak", "prominence",
)  # fmt: skip
_OF_SIDES: Final = COLUMNS[COLUMNS.index("offset_side") :]  # need a predicted box that is the object's
_DRAWN: Final = 80  # of each list


def relabel(
    inputs: Inputs,
    records: Sequence[ImageRecord],
    class_names: Sequence[str],
    suspects: Suspects,
    unlabelled: Unlabelled,
) -> dict[str, Any]:
    """Describe a data set's annotated objects, and the detections that nobody has annotated.

    Args:
        inputs: the data set.
        records: its images.
        class_names: of its labels.
        suspects: its objects.
        unlabelled: detections without an annotation.

    Returns:
        `columns` names the values of a row. `annotated` and `unlabelled` have `rows`, the most suspicious first, and
        the first of them as `drawn`, by place in the list from 0. Boxes and peaks are in pixels of the stored image.
        Columns about sides are None where no predicted box is the object's. In `unlabelled` box, class and score are
        the detection's, `iou` is its largest with an annotated object, and the columns after that are None.

    Raises:
        DataError: an image cannot be read.
    """
    scale = torch.tensor([frame.to_stored(records[frame.record]) for frame in inputs.frames]).view(-1, 4)
    names = [records[frame.record].path.name for frame in inputs.frames]
    first, order = range(min(_DRAWN, len(unlabelled))), suspects.order.tolist()
    drawn = [draw_object(inputs, records, scale, suspects, row) for row in order[:_DRAWN]]
    missing = [draw_detection(inputs, records, scale, unlabelled, row) for row in first]
    return {
        "columns": list(COLUMNS),
        "annotated": {"rows": _annotated(inputs, names, class_names, suspects, scale), "drawn": drawn},
        "unlabelled": {"rows": _unlabelled(names, class_names, unlabelled, scale), "drawn": missing},
    }


def relabel_csv(lists: dict[str, Any]) -> str:
    """Write both lists of `relabel` as one CSV with a heading; each is ranked from 1."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("rank", *lists["columns"]))
    for part in ("annotated", "unlabelled"):
        writer.writerows((rank, *row) for rank, row in enumerate(lists[part]["rows"], start=1))
    return stream.getvalue()


def _annotated(
    inputs: Inputs, names: Sequence[str], class_names: Sequence[str], suspects: Suspects, scale: Tensor
) -> list[list[Any]]:
    sides, peaks, along = suspects.sides, suspects.peaks, scale[torch.from_numpy(inputs.image)]  # (N, 4)
    own = torch.arange(len(inputs))
    offset, spread, peaked = (values.argmax(1) for values in (suspects.offset, suspects.spread, peaks.prominence))
    across = along[own, peaked]
    boxes = torch.from_numpy(inputs.boxes) * along
    columns = (
        *boxes.T, sides.seen, sides.iou, sides.rival, suspects.twin, suspects.offset[own, offset],
        suspects.spread[own, spread], peaks.first[own, peaked] * across, peaks.second[own, peaked] * across,
        peaks.prominence[own, peaked],
    )  # fmt: skip
    numbers = dict(zip(_NUMBERS, (values.tolist() for values in columns), strict=True))
    side = {"offset_side": offset.tolist(), "spread_side": spread.tolist(), "peaks_side": peaked.tolist()}
    rows = []
    for row in suspects.order.tolist():
        why = ", ".join(reason for reason, given in zip(REASONS, suspects.reasons[row].tolist(), strict=True) if given)
        values: dict[str, Any] = {name: round(values[row], _NUMBERS[name]) for name, values in numbers.items()}
        values |= {name: SIDES[which[row]] for name, which in side.items()}
        values |= {"image": names[inputs.image[row]], "class": class_names[inputs.labels[row]], "reasons": why}
        values["other_class"] = class_names[int(sides.rival_label[row])] if float(sides.rival[row]) else None
        if float(sides.iou[row]) < FOUND:
            values |= dict.fromkeys(_OF_SIDES)
        rows.append([values[name] for name in COLUMNS])
    return rows


def _unlabelled(names: Sequence[str], class_names: Sequence[str], found: Unlabelled, scale: Tensor) -> list[list[Any]]:
    rows = []
    entries = zip(found.image.tolist(), found.labels.tolist(), found.scores.tolist(), found.iou.tolist(), strict=True)
    for (image, label, score, iou), box in zip(entries, (found.boxes * scale[found.image]).tolist(), strict=True):
        edges = [round(edge, _NUMBERS["x1"]) for edge in box]
        values = [names[image], class_names[label], *edges, NOT_ANNOTATED, round(score, 4), round(iou, 4)]
        rows.append([*values, *[None] * (len(COLUMNS) - len(values))])
    return rows
