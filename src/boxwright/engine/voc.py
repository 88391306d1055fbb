"""Average precision of the Pascal VOC challenges, for comparison with numbers published on them."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["PrecisionRecall", "voc_precision_recall"]

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class PrecisionRecall:
    """Precision and recall of one class after each detection, by falling score.

    Attributes:
        precision: (n,) share of the detections so far that are right.
        recall: (n,) share of the objects found so far; NaN without objects.
        objects: number of objects to find.
    """

    precision: Array
    recall: Array
    objects: int

    @property
    def ap(self) -> float | None:
        """Area under the precision envelope, as from VOC 2010 on; None without objects."""
        if self.objects == 0:
            return None
        recall = np.concatenate([[0.0], self.recall, [1.0]])
        return float(np.sum(np.diff(recall) * self._envelope()[1:]))

    @property
    def ap_eleven_points(self) -> float | None:
        """Mean of the best precision at recalls 0, 0.1, …, 1, as in VOC 2007; None without objects."""
        if self.objects == 0:
            return None
        points = np.linspace(0, 1, 11)
        first = np.searchsorted(self.recall, points)  # first detection that reaches the recall
        return float(np.append(self._envelope()[1:-1], 0.0)[first].mean())

    def _envelope(self) -> Array:
        """Best precision at this recall or a higher one, with a point before the first and after the last."""
        padded = np.concatenate([[0.0], self.precision, [0.0]])
        return np.maximum.accumulate(padded[::-1])[::-1]


def voc_precision_recall(
    boxes: Array,
    scores: Array,
    images: NDArray[np.int64],
    truth_boxes: Array,
    truth_images: NDArray[np.int64],
    difficult: NDArray[np.bool_] | None = None,
    *,
    iou_threshold: float = 0.5,
    pixel_extents: bool = True,
    inclusive: bool = False,
) -> PrecisionRecall:
    """Match the detections of one class with its objects as Pascal VOC does (Everingham et al. 2010).

    In falling order of score a detection goes to the object that it overlaps most, in its image. It is right if the
    overlap is enough and the object still free. A match with a difficult object counts neither way.

    >>> box = np.array([[10.0, 10, 30, 30]])
    >>> curve = voc_precision_recall(box, np.array([0.9]), np.array([0]), box, np.array([0]))
    >>> curve.ap, curve.ap_eleven_points
    (1.0, 1.0)

    Args:
        boxes: (n, 4) detections, xyxy in pixels.
        scores: (n,).
        images: (n,) image of each detection.
        truth_boxes: (m, 4) objects, xyxy in pixels.
        truth_images: (m,) image of each object.
        difficult: (m,) objects that need not be found; None: no object is.
        iou_threshold: overlap from which a detection is right.
        pixel_extents: the width of a box is x2 - x1 + 1, as in the development kit.
        inclusive: an overlap of exactly the threshold is enough (the development kit wants more).
    """
    needed = np.ones(len(truth_boxes), bool) if difficult is None else ~np.asarray(difficult, bool)
    members = {image: np.flatnonzero(truth_images == image) for image in np.unique(truth_images)}
    free = np.ones(len(truth_boxes), bool)
    order = np.argsort(-scores, kind="stable")
    right, wrong = np.zeros(len(order)), np.zeros(len(order))
    for position, index in enumerate(order):
        candidates = members.get(images[index])
        if candidates is None:
            wrong[position] = 1
            continue
        overlaps = _overlaps(boxes[index], truth_boxes[candidates], float(pixel_extents))
        best = candidates[overlaps.argmax()]
        enough = overlaps.max() >= iou_threshold if inclusive else overlaps.max() > iou_threshold
        if not enough:
            wrong[position] = 1
        elif needed[best]:
            (right if free[best] else wrong)[position] = 1
            free[best] = False
    found, false = right.cumsum(), wrong.cumsum()
    objects = int(needed.sum())
    recall = found / objects if objects else np.full_like(found, np.nan)
    return PrecisionRecall(found / np.maximum(found + false, np.finfo(np.float64).eps), recall, objects)


def _overlaps(box: Array, others: Array, extra: float) -> Array:
    """IoU (m,) of one box with m others; `extra` is added to each width and height."""
    upper, lower = np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])
    shared = (lower - upper + extra).clip(min=0).prod(axis=1)
    area = (box[2:] - box[:2] + extra).prod()
    areas = (others[:, 2:] - others[:, :2] + extra).prod(axis=1)
    union = area + areas - shared
    ious: Array = np.divide(shared, union, out=np.zeros_like(union), where=union > 0)
    return ious
