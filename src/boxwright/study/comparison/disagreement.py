"""The images on which recipes differ most, with what each found there."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from boxwright.data.index import Records
from boxwright.study.comparison.analysis import Analysis
from boxwright.study.comparison.matching import Matches, Truth
from boxwright.study.pictures import picture

__all__ = ["disagreements"]

_LONGEST = 480  # pixels of a picture; every recipe is drawn on the same one


def disagreements(
    records: Records, truth: Truth, names: Sequence[str], analyses: Sequence[Sequence[Analysis]], count: int
) -> list[dict[str, Any]]:
    """Describe the images whose number of mistakes differs most between recipes; of one recipe, those with most.

    Mistakes are wrong detections and missed objects at IoU 0.5, among detections of at least the run's operating score,
    averaged over seeds. What is drawn is the first seed's.

    Args:
        records: the images.
        truth: their objects.
        names: of the recipes.
        analyses: the runs of each recipe.
        count: how many images.
    """
    mistakes = np.array([np.mean([own.mistakes for own in group], axis=0) for group in analyses])  # (R, I)
    spread = np.ptp(mistakes, axis=0) if len(names) > 1 else mistakes[0]
    by_id = {record.image_id: index for index, record in enumerate(records)}
    entries = []
    for image in np.argsort(-spread, kind="stable")[:count].tolist():
        if spread[image] == 0:
            break
        position = by_id[int(truth.image_ids[image])]
        record = records[position]
        entries.append(
            {
                "name": records.name(position),
                "width": record.width,
                "height": record.height,
                "spread": float(spread[image]),
                "objects": _objects(truth, image),
                "recipes": [
                    {"name": name, "mistakes": float(mistakes[index, image]), **_drawn(group[0], image)}
                    for index, (name, group) in enumerate(zip(names, analyses, strict=True))
                ],
            }
            | picture(record, _LONGEST)
        )
    return entries


def _objects(truth: Truth, image: int) -> list[dict[str, Any]]:
    rows = np.flatnonzero(truth.image == image)
    return [
        {"class": int(truth.label[row]), "box": truth.box[row].round(1).tolist(), "crowd": bool(truth.crowd[row])}
        for row in rows.tolist()
    ]


def _drawn(analysis: Analysis, image: int) -> dict[str, Any]:
    """Detections of an image from the operating score on, whether each is right, and which objects were missed."""
    matches: Matches = analysis.matches
    kept = (matches.image == image) & (matches.score >= analysis.numbers["operating_score"]) & ~matches.ignored[0]
    first = int(np.searchsorted(matches.truth.image, image))
    objects = np.flatnonzero(matches.truth.image == image)
    found = set(matches.found[0][kept].tolist())
    return {
        "detections": [
            {
                "class": int(matches.label[row]),
                "score": round(float(matches.score[row]), 2),
                "box": matches.box[row].round(1).tolist(),
                "right": bool(matches.found[0][row] >= 0),
            }
            for row in np.flatnonzero(kept).tolist()
        ],
        "missed": [row - first for row in objects.tolist() if row not in found and not matches.truth.crowd[row]],
    }
