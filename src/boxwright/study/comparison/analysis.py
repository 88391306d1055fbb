"""What one run's detections say: COCO's numbers, AP over resampled images, precision, calibration, errors."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from boxwright.engine import Run
from boxwright.engine.coco import coco_metrics
from boxwright.study.comparison.error_kinds import error_kinds
from boxwright.study.comparison.matching import Matches, Truth, match

__all__ = ["Analysis", "analyse", "learning_curve", "operating_score"]

_BINS: Final = 10  # of the score, for calibration
_NOT_LOSSES: Final = {"kind", "step", "epoch", "lr", "images_per_s", "skipped_steps"}


@dataclass(frozen=True)
class Analysis:
    """One run's detections, analysed.

    Attributes:
        numbers: JSON-ready: `metrics`, `classes` (AP by class), `precision` (at recall 0, 0.01, …, 1, by IoU),
            `errors`, `calibration` (by score: `count`, `right`, `score` sums), `operating_score`, `curve`.
        resampled: (B,) AP over resampled images.
        mistakes: (I,) wrong detections and missed objects in each image, at the operating score.
        matches: the detections.
    """

    numbers: dict[str, Any]
    resampled: NDArray[np.float64]
    mistakes: NDArray[np.int64]
    matches: Matches


def analyse(run: Run, ground_truth: Mapping[str, Any], truth: Truth, weights: Tensor) -> Analysis:
    """Analyse the best checkpoint's detections.

    Args:
        run: a run with `predictions.json`.
        ground_truth: the validation images, see `coco_ground_truth`.
        truth: the same, as arrays.
        weights: (B, I) resamplings of the images.
    """
    predictions = run.predictions()
    metrics = coco_metrics(ground_truth, predictions)
    matches = match(truth, predictions)
    precision = matches.precision().numpy()  # (T, K, 101)
    score = operating_score(matches)
    numbers = {
        "metrics": metrics.stats,
        "classes": {entry.name: entry.ap for entry in metrics.per_class},
        "precision": {
            "0.50": _curve(precision[0]),
            "0.75": _curve(precision[5]),
            "0.50:0.95": _curve(precision.mean(axis=0)),
        },
        "errors": asdict(error_kinds(matches)),
        "calibration": _calibration(matches),
        "operating_score": score,
        "curve": learning_curve(run),
    }
    resampled = matches.average_precision(weights).flatten(1).nanmean(dim=1).numpy()
    return Analysis(numbers, resampled, _mistakes(matches, score), matches)


def operating_score(matches: Matches) -> float:
    """Return the score from which detections are best kept: that of the highest F1 at IoU 0.5 over all classes."""
    counted = ~matches.ignored[0]
    right = np.cumsum((matches.found[0] >= 0)[counted])
    objects = int((~matches.truth.crowd).sum())
    if not len(right) or not objects:
        return 1.0
    f1 = 2 * right / (np.arange(1, len(right) + 1) + objects)
    scores = matches.score[counted]
    last = np.append(scores[1:] != scores[:-1], True)  # equal scores are kept or dropped together
    return float(scores[np.where(last, f1, -1).argmax()])


def learning_curve(run: Run) -> list[dict[str, Any]]:
    """Return for every epoch its mean loss and terms, its last learning rate, and metrics where it was evaluated."""
    sums: dict[int, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    metrics: dict[int, dict[str, Any]] = {}
    rates: dict[int, float] = {}
    for record in run.metrics():
        if record["kind"] == "eval":
            metrics[record["epoch"]] = {name: record.get(name) for name in ("AP", "AP50", "AP75")}
        else:
            rates[record["epoch"]] = record["lr"]
            for name in record.keys() - _NOT_LOSSES:
                sums[record["epoch"]][name].append(record[name])
    return [
        {"epoch": epoch, "losses": {name: float(np.mean(values)) for name, values in sorted(sums[epoch].items())}}
        | {"lr": rates.get(epoch)}
        | metrics.get(epoch, {})
        for epoch in sorted(sums.keys() | metrics.keys())
    ]


def _curve(precision: NDArray[np.float64]) -> list[float] | None:
    """Mean over the classes that have objects, of (K, 101)."""
    known = precision[np.isfinite(precision).all(axis=1)]
    return known.mean(axis=0).round(4).tolist() if len(known) else None


def _calibration(matches: Matches) -> dict[str, list[float]]:
    """How often detections of a score are right at IoU 0.5, by ten bins of the score."""
    counted = ~matches.ignored[0]
    score, right = matches.score[counted], (matches.found[0] >= 0)[counted]
    bins = np.minimum((score * _BINS).astype(int), _BINS - 1)
    return {
        "count": np.bincount(bins, minlength=_BINS).tolist(),
        "right": np.bincount(bins, right, minlength=_BINS).tolist(),
        "score": np.bincount(bins, score, minlength=_BINS).round(4).tolist(),
    }


def _mistakes(matches: Matches, score: float) -> NDArray[np.int64]:
    """Wrong detections and missed objects of each image at IoU 0.5 (I,)."""
    truth, kept = matches.truth, (matches.score >= score) & ~matches.ignored[0]
    right = kept & (matches.found[0] >= 0)
    images = len(truth.image_ids)
    wrong = np.bincount(matches.image[kept & ~right], minlength=images)
    objects = truth.objects.sum(axis=1)
    return wrong + objects - np.bincount(matches.image[right], minlength=images)
