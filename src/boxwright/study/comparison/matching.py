"""COCO's matching of detections with objects, kept as arrays, so that AP can be had for any choice of the images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["IOU_THRESHOLDS", "Matches", "Truth", "match"]

IOU_THRESHOLDS: Final = np.linspace(0.5, 0.95, 10)
_RECALLS: Final = torch.linspace(0, 1, 101, dtype=torch.float64)
_MOST: Final = 100  # detections of a class in an image, as in COCO's evaluation
_AT_ONCE: Final = 2**23  # numbers of one array while resampling

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Truth:
    """The objects of a data set, by image.

    Attributes:
        image_ids: (I,) ascending ids of the images.
        categories: (K,) ids of the classes, ascending.
        image: (G,) index of each object's image, ascending.
        label: (G,) index of its class.
        box: (G, 4) xyxy in pixels of the stored image.
        crowd: (G,) whether it is a region to ignore.
    """

    image_ids: Ints
    categories: Ints
    image: Ints
    label: Ints
    box: Floats
    crowd: Flags

    @classmethod
    def of(cls, ground_truth: Mapping[str, Any]) -> "Truth":
        """Read the content of a COCO file."""
        image_ids = np.unique([image["id"] for image in ground_truth["images"]]).astype(np.int64)
        categories = np.array(sorted(category["id"] for category in ground_truth["categories"]), np.int64)
        entries = ground_truth["annotations"]
        image = np.searchsorted(image_ids, np.array([entry["image_id"] for entry in entries], np.int64))
        order = np.argsort(image, kind="stable")
        return cls(
            image_ids,
            categories,
            image[order],
            np.searchsorted(categories, np.array([entry["category_id"] for entry in entries], np.int64))[order],
            _corners([entry["bbox"] for entry in entries])[order],
            np.array([bool(entry.get("iscrowd", 0)) for entry in entries], bool)[order],
        )

    @property
    def objects(self) -> Ints:
        """(I, K) number of objects of each class in each image, regions to ignore left out."""
        counts = np.zeros((len(self.image_ids), len(self.categories)), np.int64)
        np.add.at(counts, (self.image[~self.crowd], self.label[~self.crowd]), 1)
        return counts


@dataclass(frozen=True)
class Matches:
    """The detections of one run, by falling score, and what each of them found.

    Attributes:
        truth: what was to be found.
        image: (D,) index of the image.
        label: (D,) index of the class.
        score: (D,).
        box: (D, 4) xyxy.
        found: (T, D) the object that a detection is matched with at each of `IOU_THRESHOLDS`, -1 for none.
        ignored: (T, D) whether it counts neither for nor against: it lies on a region to ignore.
        own: (D,) the object of its class that it overlaps most, -1 where the image has none.
        own_iou: (D,) that overlap, 0 where there is none.
        other_iou: (D,) its largest overlap with an object of another class.
        other: (D,) that object, -1 where the image has none.
    """

    truth: Truth
    image: Ints
    label: Ints
    score: Floats
    box: Floats
    found: Ints
    ignored: Flags
    own: Ints
    own_iou: Floats
    other: Ints
    other_iou: Floats

    def __len__(self) -> int:
        return len(self.score)

    def average_precision(self, weights: Tensor | None = None) -> Tensor:
        """Return AP by resampling, IoU threshold and class.

        Args:
            weights: (B, I) how often each image is counted; None counts each once.

        Returns:
            (B, T, K) float64, NaN where a class has no object in the images counted.
        """
        images = len(self.truth.image_ids)
        weights = torch.ones(1, images, dtype=torch.float64) if weights is None else weights.double()
        chunk = max(1, _AT_ONCE // max(len(self), 101))
        return torch.cat([self._precision(part).mean(dim=-1) for part in weights.split(chunk)])

    def precision(self) -> Tensor:
        """Return precision (T, K, 101) at recall 0, 0.01, …, 1 as COCO interpolates it, NaN for absent classes."""
        return self._precision(torch.ones(1, len(self.truth.image_ids), dtype=torch.float64))[0]

    def _precision(self, weights: Tensor) -> Tensor:
        """(B, T, K, 101) for weights (B, I)."""
        objects = torch.from_numpy(self.truth.objects).double()
        result = weights.new_full((len(weights), len(self.found), objects.shape[1], len(_RECALLS)), torch.nan)
        for label in range(objects.shape[1]):
            rows = np.flatnonzero(self.label == label)
            weight = weights[:, self.image[rows]]  # (B, D)
            total = (weights @ objects[:, label])[:, None]  # (B, 1)
            seen = _cumulated(weight)
            for step, (found, ignored) in enumerate(zip(self.found[:, rows], self.ignored[:, rows], strict=True)):
                curve = _interpolated(weight, seen, (found >= 0) & ~ignored, ignored, total.clamp(min=1))
                result[:, step, label] = torch.where(total > 0, curve, torch.nan)
        return result


def match(truth: Truth, predictions: Sequence[Mapping[str, Any]]) -> Matches:
    """Match detections with objects as COCO does (pycocotools), at every IoU threshold.

    A detection of falling score takes the free object of its class that it overlaps most, if by the threshold at least;
    failing that a region to ignore, of which it covers that share of itself.

    Args:
        truth: the objects.
        predictions: entries of COCO's results format: image_id, category_id, bbox (x, y, width, height), score.
    """
    image = np.searchsorted(truth.image_ids, np.array([entry["image_id"] for entry in predictions], np.int64))
    label = np.searchsorted(truth.categories, np.array([entry["category_id"] for entry in predictions], np.int64))
    score = np.array([entry["score"] for entry in predictions], np.float64)
    box = _corners([entry["bbox"] for entry in predictions])
    order = _best(image, label, score)
    image, label, score, box = image[order], label[order], score[order], box[order]
    count, steps = len(order), len(IOU_THRESHOLDS)
    found, ignored = np.full((steps, count), -1), np.zeros((steps, count), bool)
    own, other = np.full(count, -1), np.full(count, -1)
    own_iou, other_iou = np.zeros(count), np.zeros(count)
    by_image = np.argsort(image, kind="stable")  # keeps the order by score
    starts = np.searchsorted(image[by_image], np.arange(len(truth.image_ids) + 1))
    limits = np.searchsorted(truth.image, np.arange(len(truth.image_ids) + 1))
    for index in np.unique(image).tolist():
        rows = by_image[starts[index] : starts[index + 1]]
        objects = slice(limits[index], limits[index + 1])
        if objects.start == objects.stop:
            continue
        crowd, same = truth.crowd[objects], label[rows][:, None] == truth.label[objects]
        overlap = _overlaps(box[rows], truth.box[objects], crowd)  # (d, g)
        for into, into_iou, fits in ((own, own_iou, same & ~crowd), (other, other_iou, ~same & ~crowd)):
            best = np.where(fits, overlap, -1).argmax(axis=1)
            exists = fits.any(axis=1)
            into[rows] = np.where(exists, best + objects.start, -1)
            into_iou[rows] = np.where(exists, overlap[np.arange(len(rows)), best], 0)
        taken = _greedy(overlap, same, crowd)
        found[:, rows] = np.where(taken >= 0, taken + objects.start, -1)
        ignored[:, rows] = (taken >= 0) & crowd[taken]
    return Matches(truth, image, label, score, box, found, ignored, own, own_iou, other, other_iou)


def _best(image: Ints, label: Ints, score: Floats) -> Ints:
    """Order detections by falling score, of equal ones by image; keep the best of each class in each image."""
    order = np.lexsort((np.arange(len(score)), image, -score))
    group = image[order] * (label.max(initial=0) + 1) + label[order]
    by_group = np.argsort(group, kind="stable")
    starts = np.flatnonzero(np.diff(group[by_group], prepend=-1))
    rank = np.empty(len(order), np.int64)
    rank[by_group] = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return order[rank < _MOST]


def _greedy(overlap: Floats, same: Flags, crowd: Flags) -> Ints:
    """Give each detection (d, by falling score) an object, (T, d) with -1 for none, for overlaps (d, g)."""
    taken = np.full((len(IOU_THRESHOLDS), len(overlap)), -1)
    free = np.ones((len(IOU_THRESHOLDS), overlap.shape[1]), bool)
    enough = IOU_THRESHOLDS[:, None]
    steps, last = np.arange(len(IOU_THRESHOLDS)), overlap.shape[1] - 1
    for row in np.flatnonzero(((overlap >= IOU_THRESHOLDS[0]) & same).any(axis=1)).tolist():
        wanted = free & same[row] & (overlap[row] >= enough)
        objects = wanted & ~crowd
        wanted = np.where(objects.any(axis=1, keepdims=True), objects, wanted)
        # of equal overlaps the last, as in pycocotools
        best = last - np.where(wanted, overlap[row], -1)[:, ::-1].argmax(axis=1)
        hit = wanted[steps, best]
        taken[:, row] = np.where(hit, best, -1)
        free[steps[hit], best[hit]] = crowd[best[hit]]  # a region to ignore is never used up
    return taken


def _overlaps(boxes: Floats, objects: Floats, crowd: Flags) -> Floats:
    """IoU of boxes (d, 4) and objects (g, 4); the share of the box that is covered where the object is a crowd."""
    sides = np.minimum(boxes[:, None, 2:], objects[:, 2:]) - np.maximum(boxes[:, None, :2], objects[:, :2])
    shared = sides.clip(0).prod(axis=2)
    area, size = (boxes[:, 2:] - boxes[:, :2]).prod(axis=1)[:, None], (objects[:, 2:] - objects[:, :2]).prod(axis=1)
    return shared / np.maximum(np.where(crowd, area, area + size - shared), np.finfo(np.float64).tiny)


def _corners(boxes: Sequence[Sequence[float]]) -> Floats:
    corners = np.array(boxes, np.float64).reshape(-1, 4)
    corners[:, 2:] += corners[:, :2]
    return corners


def _cumulated(values: Tensor) -> Tensor:
    """Sums of the first 0, 1, …, n values, (B, n + 1)."""
    return torch.nn.functional.pad(values.cumsum(dim=1), (1, 0))


def _interpolated(weight: Tensor, seen: Tensor, hit: Flags, ignored: Flags, total: Tensor) -> Tensor:
    """Precision (B, 101) of detections with weights (B, D); only hits matter, between them precision falls."""
    hits = np.flatnonzero(hit)
    if not len(hits):
        return weight.new_zeros(len(weight), len(_RECALLS))
    counted = seen[:, hits + 1]
    if ignored.any():
        passed = np.flatnonzero(ignored)
        counted = counted - _cumulated(weight[:, passed])[:, np.searchsorted(passed, hits)]
    right = weight[:, hits].cumsum(dim=1)
    precision = right / counted.clamp(min=1)
    envelope = precision.flip(1).cummax(dim=1).values.flip(1)
    index = torch.searchsorted(right / total, _RECALLS.expand(len(right), -1).contiguous())
    return torch.nn.functional.pad(envelope, (0, 1)).gather(1, index)
