"""From the runs of a comparison to everything that its page, its Markdown and its JSON say."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np

import boxwright
from boxwright.data.index import DataIndex
from boxwright.data.loader import verify_images
from boxwright.data.stats import count_sizes
from boxwright.engine import Run
from boxwright.engine.evaluate import coco_ground_truth
from boxwright.errors import DataError
from boxwright.study.comparison.analysis import Analysis, analyse
from boxwright.study.comparison.commands import shown_path, train_command
from boxwright.study.comparison.disagreement import disagreements
from boxwright.study.comparison.error_kinds import KINDS
from boxwright.study.comparison.matching import Truth
from boxwright.study.comparison.runs import measured
from boxwright.study.comparison.statistics import RESAMPLINGS, compare_recipes, image_weights, mean_and_deviation
from boxwright.study.comparison.wording import verdict_words

__all__ = ["METRICS", "Entry", "summarise"]

METRICS: Final = ("AP", "AP50", "AP75", "AP_small", "AP_medium", "AP_large", "AR1", "AR10", "AR100")


@dataclass(frozen=True)
class Entry:
    """A recipe of a report with its finished runs.

    Attributes:
        name: unique.
        runs: finished runs, one for each seed.
        facts: more to say about it, JSON-ready.
    """

    name: str
    runs: Sequence[Run]
    facts: Mapping[str, Any]


def summarise(
    entries: Sequence[Entry], index: DataIndex, *, images: int = 12, absent: Sequence[str] = ()
) -> dict[str, Any]:
    """Analyse runs on the validation images of the data set that they were trained on.

    Args:
        entries: recipes with at least one run each.
        index: the data set.
        images: how many images to show.
        absent: recipes that were to be compared as well, but of which no run has finished.

    Returns:
        A JSON-ready report.

    Raises:
        DataError: the validation images have no object.
    """
    records = index.split("val")
    content = coco_ground_truth(records, index.class_names, index.category_ids)
    if any(run.data.get("skip_bad") for entry in entries for run in entry.runs):
        content = _without(content, {records[position].image_id for position in verify_images(records, decode=True)})
    truth = Truth.of(content)
    if truth.crowd.all():
        raise DataError("split 'val' has no object in an image that can be read, so there is nothing to measure")
    weights = image_weights(len(truth.image_ids), RESAMPLINGS if len(entries) > 1 else 1)
    analyses = [[analyse(run, content, truth, weights) for run in entry.runs] for entry in entries]
    scores = [[analysis.numbers["metrics"]["AP"] for analysis in group] for group in analyses]
    resampled = [np.mean([analysis.resampled for analysis in group], axis=0) for group in analyses]
    verdict = compare_recipes(scores, resampled, len(truth.image_ids))
    report = {
        "boxwright": boxwright.__version__,
        "data": {
            "describe": index.describe(),
            "path": shown_path(entries[0].runs[0].data["path"]),
            "images": len(truth.image_ids),
            "objects": int((~truth.crowd).sum()),
            "sizes": count_sizes([entry["area"] for entry in content["annotations"] if not entry["iscrowd"]]),
            "classes": [
                {"name": name, "train": int(train), "val": int(val)}
                for name, train, val in zip(
                    index.class_names, index.class_counts("train"), index.class_counts("val"), strict=True
                )
            ],
        },
        "metrics": list(METRICS),
        "kinds": list(KINDS),
        "recipes": [_recipe(entry, group) for entry, group in zip(entries, analyses, strict=True)],
        "absent": list(absent),
        "pairs": [asdict(pair) for pair in verdict.pairs],
        "winner": verdict.winner,
        "leaders": list(verdict.leaders),
        "images": disagreements(records, truth, [entry.name for entry in entries], analyses, images),
    }
    return report | {"verdict": verdict_words(report)}


def _without(content: Mapping[str, Any], image_ids: set[int]) -> dict[str, Any]:
    """Leave out images, which the runs left out too because they cannot be read."""
    images = [image for image in content["images"] if image["id"] not in image_ids]
    annotations = [entry for entry in content["annotations"] if entry["image_id"] not in image_ids]
    return {**content, "images": images, "annotations": annotations}


def _recipe(entry: Entry, analyses: Sequence[Analysis]) -> dict[str, Any]:
    """Describe a recipe by means and deviations over its seeds."""
    numbers = [analysis.numbers for analysis in analyses]
    runs = [_run(run, own) for run, own in zip(entry.runs, numbers, strict=True)]
    return {
        "name": entry.name,
        **entry.facts,
        "metrics": {name: _spread([own["metrics"][name] for own in numbers]) for name in METRICS},
        "classes": {name: _spread([own["classes"][name] for own in numbers]) for name in numbers[0]["classes"]},
        "seconds_per_step": _spread([run["seconds_per_step"] for run in runs]),
        "peak_memory": _spread([run["peak_memory"] for run in runs]),
        "errors": {
            "counts": {kind: _spread([own["errors"]["counts"][kind] for own in numbers]) for kind in KINDS},
            "cost": {kind: _spread([own["errors"]["cost"][kind] for own in numbers]) for kind in KINDS},
        },
        "precision": {iou: _mean([own["precision"][iou] for own in numbers]) for iou in numbers[0]["precision"]},
        "calibration": {
            name: np.sum([own["calibration"][name] for own in numbers], axis=0).tolist()
            for name in numbers[0]["calibration"]
        },
        "calibration_error": _spread([_calibration_error(own["calibration"]) for own in numbers]),
        "runs": runs,
    }


def _run(run: Run, numbers: Mapping[str, Any]) -> dict[str, Any]:
    environment = run.environments[-1]
    return {
        "path": shown_path(run.path),
        "command": train_command(run),
        "seed": run.recipe.train.seed,
        "metrics": numbers["metrics"],
        "curve": numbers["curve"],
        "operating_score": numbers["operating_score"],
        "machine": ", ".join(environment["devices"]) or f"{environment['cores']} cores, {environment['processor']}",
        "packages": environment["packages"],
        "commit": environment["commit"],
        **(measured(run) or {"seconds_per_step": None, "peak_memory": None, "memory": None}),
    }


def _spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean and deviation of the known values, and all of them."""
    mean, deviation = mean_and_deviation([value for value in values if value is not None])
    return {"mean": mean, "deviation": deviation, "values": list(values)}


def _mean(curves: Sequence[list[float] | None]) -> list[float] | None:
    known = [curve for curve in curves if curve is not None]
    return np.mean(known, axis=0).round(4).tolist() if known else None


def _calibration_error(bins: Mapping[str, Sequence[float]]) -> float | None:
    """Expected calibration error: mean distance of score and share that is right, over detections (Guo et al. 2017)."""
    total = sum(bins["count"])
    return sum(abs(r - s) for r, s in zip(bins["right"], bins["score"], strict=True)) / total if total else None
