"""The rules that every box obeys before it is trained on; the same when a data set is loaded and when it is checked."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from boxwright.data.annotations import Annotations, BoxTable
from boxwright.data.findings import Finding

Mask = NDArray[np.bool_]

OVERSHOOT = 0.01  # of the image side: boxes over by at most this are clipped, beyond it they are errors
ROUNDING = 0.01  # pixels over the border that are rounding, not worth a finding


class Verdict(NamedTuple):
    """The findings about all boxes, and the boxes that are left: clipped to their image, without the empty ones."""

    findings: list[Finding]
    boxes: BoxTable


def judge(annotations: Annotations) -> Verdict:
    """Apply the rules to every box; image sizes must be known (boxes of images without a size are let through)."""
    boxes = annotations.box_table()
    size = np.array([(e.width, e.height, e.width, e.height) for e in annotations.images], np.float64).reshape(-1, 4)
    size = size[boxes.owner]
    sized = size[:, 0] > 0
    finite = _rows(np.isfinite(boxes.xyxy))
    with np.errstate(invalid="ignore", over="ignore"):
        over = np.where(sized[:, None], np.maximum(-boxes.xyxy, boxes.xyxy - size), 0.0)
        empty = finite & ~_rows(boxes.xyxy[:, 2:] > boxes.xyxy[:, :2])
        outside = finite & ~empty & ~_rows(over <= OVERSHOOT * size) & sized
        slight = finite & ~empty & ~outside & ~_rows(over <= ROUNDING)
        # Rounded as records hold them: a box may vanish by that as well as by clipping.
        clipped = np.where(sized[:, None], np.clip(boxes.xyxy, 0, size), boxes.xyxy).astype(np.float32)
        vanished = finite & ~empty & ~outside & ~_rows(clipped[:, 2:] > clipped[:, :2])
        area = np.where(slight, np.prod(clipped[:, 2:] - clipped[:, :2], axis=1), boxes.area)
    findings = annotations.unknown_classes(boxes)
    findings += _format_findings(annotations, boxes, size, empty, outside)
    for kind, mask, words in (
        ("box-number", ~finite, "is not finite"),
        ("box-empty", empty, "has no area (zero or inverted sides)"),
        ("box-outside", outside, "lies outside its image"),
        ("box-clipped", slight & ~vanished, "is slightly over the border of its image"),
        ("box-empty", vanished, "has no area inside its image"),
    ):
        rows = np.flatnonzero(mask).tolist()
        findings += [annotations.box_finding(kind, boxes, i, f"{annotations.box_text(boxes, i)} {words}") for i in rows]
    return Verdict(
        findings, boxes._replace(xyxy=clipped.astype(np.float64), area=area).select(finite & ~empty & ~vanished)
    )


def _format_findings(
    annotations: Annotations,
    boxes: BoxTable,
    size: NDArray[np.float64],
    empty: Mask,
    outside: Mask,
) -> list[Finding]:
    """Tell xywh from xyxy, of which one breaks boxes of a split and the other fits all, and fractions from pixels."""
    corner, far, limit = boxes.xyxy[:, :2], boxes.xyxy[:, 2:], size[:, 2:] * (1 + OVERSHOOT)
    with np.errstate(invalid="ignore", over="ignore"):
        as_size, as_corner = far - corner, far + corner
    if annotations.places == "id":  # COCO, whose boxes are x, y, w, h
        broken, said, really = outside, "xywh", "xyxy"
        fits = _rows((as_size > corner) & (as_size <= limit))
        least = 1
    else:
        broken, said, really = empty, "xyxy", "xywh"
        fits = _rows((far > 0) & (as_corner <= limit))
        least = 3  # one empty box in the corner of an image is just an empty box
    fraction = _rows((boxes.xyxy >= 0) & (boxes.xyxy <= 1))
    splits = np.array([entry.split for entry in annotations.images])[boxes.owner]
    findings = []
    for split in dict.fromkeys(splits.tolist()):
        inside = splits == split
        count, total = int(broken[inside].sum()), int(inside.sum())
        source = annotations.images[boxes.owner[np.argmax(broken & inside if count else inside)]].source
        if total >= 3 and fraction[inside].all():
            message = f"the boxes of {split} look like fractions of the image but are read as pixels: none is above 1"
            findings.append(Finding("box-format", message, source))
        elif count >= least and count * 3 >= total and fits[inside].all():
            message = f"the boxes of {split} look like {really} but are read as {said}: {count} of {total} cannot be"
            findings.append(Finding("box-format", message, source))
    return findings


def _rows(values: Mask) -> Mask:
    """Tell which rows of (n, k) are true throughout."""
    return np.asarray(values.all(axis=1))
