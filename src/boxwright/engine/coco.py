"""COCO's box metrics: the twelve numbers and the AP of every class, by faster-coco-eval."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from boxwright.errors import DataError
from boxwright.extras import needs_extra

__all__ = ["ClassMetrics", "Metrics", "coco_metrics"]


class _Row(NamedTuple):
    name: str
    iou: str
    area: str
    max_dets: int

    @property
    def title(self) -> str:
        kind = "Average Precision  (AP)" if self.name.startswith("AP") else "Average Recall     (AR)"
        return f"{kind} @[ IoU={self.iou:<9} | area={self.area:>6} | maxDets={self.max_dets:>3} ]"


_ALL = "0.50:0.95"
_ROWS = (
    _Row("AP", _ALL, "all", 100),
    _Row("AP50", "0.50", "all", 100),
    _Row("AP75", "0.75", "all", 100),
    _Row("AP_small", _ALL, "small", 100),
    _Row("AP_medium", _ALL, "medium", 100),
    _Row("AP_large", _ALL, "large", 100),
    _Row("AR1", _ALL, "all", 1),
    _Row("AR10", _ALL, "all", 10),
    _Row("AR100", _ALL, "all", 100),
    _Row("AR_small", _ALL, "small", 100),
    _Row("AR_medium", _ALL, "medium", 100),
    _Row("AR_large", _ALL, "large", 100),
)


@dataclass(frozen=True)
class ClassMetrics:
    """AP of one class; None where it has no object to find.

    Attributes:
        category_id: id of the class in the source annotations.
        name: name of the class.
        objects: number of its objects, crowd regions left out.
        ap: AP at IoU 0.50:0.95.
        ap50: AP at IoU 0.50.
        ar100: recall at IoU 0.50:0.95 with at most 100 detections per image.
    """

    category_id: int
    name: str
    objects: int
    ap: float | None
    ap50: float | None
    ar100: float | None


@dataclass(frozen=True)
class Metrics:
    """COCO metrics of one evaluation; None where a number is undefined because there is nothing to find.

    Attributes:
        stats: the twelve numbers by name, in the classic order: AP, AP50, AP75, AP_small, AP_medium, AP_large, AR1,
            AR10, AR100, AR_small, AR_medium, AR_large.
        per_class: one entry per class, in the order of the source category ids.
        images: number of images evaluated.
        predictions: what was evaluated, in COCO's results format.
    """

    stats: dict[str, float | None]
    per_class: tuple[ClassMetrics, ...]
    images: int
    predictions: Sequence[Mapping[str, Any]] = field(default=(), repr=False, compare=False)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries and lists for `json.dump`; undefined numbers are null."""
        classes = [vars(entry) for entry in self.per_class]
        return {"images": self.images, "stats": dict(self.stats), "per_class": copy.deepcopy(classes)}

    def summary(self) -> str:
        """Return the twelve numbers in the layout that COCO's own tool prints, `n/a` where undefined."""
        return "\n".join(f" {row.title} = {number(self.stats[row.name])}" for row in _ROWS)

    def class_table(self) -> str:
        """Return one line per class: objects, AP, AP50, AR100."""
        width = max([len("class"), *(len(entry.name) for entry in self.per_class)])
        lines = [f" {'class':<{width}}  {'objects':>8}  {'AP':>5}  {'AP50':>5}  {'AR100':>5}"]
        lines += [
            f" {entry.name:<{width}}  {entry.objects:>8}  "
            f"{number(entry.ap):>5}  {number(entry.ap50):>5}  {number(entry.ar100):>5}"
            for entry in self.per_class
        ]
        return "\n".join(lines)

    def __str__(self) -> str:
        """Return the summary and the table of classes."""
        return f"{self.summary()}\n\n{self.class_table()}"


def number(value: float | None) -> str:
    """Write a metric with three decimals, `n/a` where it is undefined."""
    return "n/a" if value is None else f"{value:.3f}"


def coco_metrics(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], *, class_agnostic: bool = False
) -> Metrics:
    """Evaluate predictions as COCO does (Lin et al. 2014, arXiv:1405.0312).

    At most 100 detections per image and class count. Crowd regions are not objects: a detection that no object claims
    and that lies in one costs nothing. Area ranges use the `area` of the annotation and width x height of a detection.

    >>> truth = {
    ...     "images": [{"id": 7, "width": 100, "height": 80}],
    ...     "categories": [{"id": 3, "name": "cell"}],
    ...     "annotations": [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 20], "area": 400, "iscrowd": 0}],
    ... }
    >>> found = [{"image_id": 7, "category_id": 3, "bbox": [10, 10, 20, 19], "score": 0.9}]
    >>> round(coco_metrics(truth, found).stats["AP"], 3)
    1.0

    Args:
        ground_truth: `images`, `categories` and `annotations` as in a COCO file; `bbox` is x, y, width, height.
        predictions: entries of COCO's results format: image_id, category_id, bbox, score.
        class_agnostic: match boxes of any class with each other; `per_class` is then empty.

    Raises:
        DataError: a prediction names an image that the ground truth lacks.
    """
    evaluator = run_coco_eval(ground_truth, predictions, class_agnostic=class_agnostic)
    values = (float(value) for value in evaluator.stats)
    stats = {row.name: None if value < 0 else value for row, value in zip(_ROWS, values, strict=True)}
    per_class = () if class_agnostic else _per_class(evaluator, ground_truth)
    return Metrics(stats, per_class, len(ground_truth["images"]), predictions)


def run_coco_eval(
    ground_truth: Mapping[str, Any], predictions: Sequence[Mapping[str, Any]], *, class_agnostic: bool = False
) -> Any:
    """Return the library's evaluator after its run: `eval["precision"]` (T, R, K, A, M), `eval["recall"]`, `stats`."""
    with needs_extra("train"):
        from faster_coco_eval import COCO, COCOeval_faster

    known = {image["id"] for image in ground_truth["images"]}
    for index, prediction in enumerate(predictions):
        if prediction["image_id"] not in known:
            raise DataError(
                f"predictions[{index}] names image_id {prediction['image_id']!r}, which the ground truth does not have"
            )
    # Ids count from 1 whatever the source says: the matcher reads id 0 as "not matched".
    annotations = [{**entry, "id": index} for index, entry in enumerate(ground_truth["annotations"], 1)]
    truth = COCO({**ground_truth, "annotations": annotations})
    # The library writes areas and ids into the entries it is given.
    found = truth.loadRes([dict(prediction) for prediction in predictions])
    evaluator = COCOeval_faster(truth, found, iouType="bbox", print_function=lambda *_: None)
    evaluator.params.useCats = not class_agnostic
    evaluator.run()
    return evaluator


def _per_class(evaluator: Any, ground_truth: Mapping[str, Any]) -> tuple[ClassMetrics, ...]:
    precision, recall = evaluator.eval["precision"], evaluator.eval["recall"]
    names = {category["id"]: category["name"] for category in ground_truth["categories"]}
    objects = dict.fromkeys(names, 0)
    for annotation in ground_truth["annotations"]:
        if annotation["category_id"] in objects:
            objects[annotation["category_id"]] += not annotation.get("iscrowd", 0)
    return tuple(
        ClassMetrics(
            category_id=int(category),
            name=names[category],
            objects=objects[category],
            ap=_mean_of_defined(precision[:, :, k, 0, -1]),
            ap50=_mean_of_defined(precision[0, :, k, 0, -1]),
            ar100=_mean_of_defined(recall[:, k, 0, -1]),
        )
        for k, category in enumerate(evaluator.params.catIds)
    )


def _mean_of_defined(values: np.ndarray) -> float | None:
    """Mean over the entries that are not -1, the library's mark for "undefined"."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None
