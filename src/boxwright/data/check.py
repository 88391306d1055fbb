"""Look for everything that is wrong with a data set before it costs a training run."""

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np
import torch
from numpy.typing import NDArray

from boxwright.boxes import box_area, box_iou
from boxwright.data.annotations import Annotations, BoxTable, Request
from boxwright.data.check_images import Watch, check_images
from boxwright.data.findings import SEVERITIES, Finding, FindingError
from boxwright.data.readers import describe, find_reader, read_annotations
from boxwright.data.rules import judge
from boxwright.data.splits import by_split
from boxwright.data.stats import SplitColumns, Statistics, statistics

SAME_BOX = 0.8  # IoU from which two boxes of one class are taken for the same object
SWALLOWED = 0.5  # share of an object in a region to ignore above which so are most priors inside it


@dataclass(frozen=True)
class Report(Sequence[Finding]):
    """The findings of a check, errors first, and what the data set consists of (None where it cannot be read)."""

    title: str
    findings: tuple[Finding, ...]
    statistics: Statistics | None = None
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.findings)

    @overload
    def __getitem__(self, index: int) -> Finding: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Finding]: ...
    def __getitem__(self, index: int | slice) -> Finding | Sequence[Finding]:
        return self.findings[index]

    @property
    def totals(self) -> dict[str, int]:
        """The number of findings of each kind that occurs."""
        return dict(Counter(finding.kind for finding in self.findings))

    @property
    def severities(self) -> dict[str, int]:
        """The number of errors, warnings and infos, by severity."""
        return {name: sum(finding.severity == name for finding in self.findings) for name in SEVERITIES}

    def exit_code(self, strict: bool = False) -> int:
        """Return 2 when there are errors, 1 when there are warnings and `strict`, else 0."""
        counts = self.severities
        return 2 if counts["error"] else int(strict and counts["warning"] > 0)

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return {
            "title": self.title,
            "notes": self.notes,
            "severities": self.severities,
            "totals": self.totals,
            "findings": [finding.to_dict() for finding in self.findings],
            "statistics": self.statistics.to_dict() if self.statistics else None,
        }


def check_dataset(
    path: str | Path,
    *,
    format: str | None = None,
    classes: Sequence[str] | None = None,
    splits: Mapping[str, str] | None = None,
    images: str | Path | None = None,
    one_based: bool | None = None,
    watch: Watch = lambda looks, total: looks,
) -> Report:
    """Read annotations and images of a data set, and report everything that is wrong or worth knowing.

    The arguments are those of `open_dataset`. The rules are those of loading, which drops boxes without area, clips
    slight overshoot and refuses errors; here nothing is refused and every case is listed. `watch` passes on what is
    seen of each image, to show how far the reading is.

    Raises:
        DataError: there is nothing at `path` that could be checked.
    """
    request = Request.make(path, classes, splits, images, one_based)
    reader = find_reader(request.path, format)
    try:
        annotations = read_annotations(reader, request)
    except FindingError as error:
        return Report(f"found: {reader.TITLE}, which cannot be read", (error.finding,))
    if not annotations.images:
        nothing = Finding("annotation-file", "no images are listed here", request.path)
        return Report(f"found: {reader.TITLE}, without images", (*annotations.problems, nothing))
    findings = annotations.problems + check_images(annotations, watch)
    verdict = judge(annotations)
    findings += verdict.findings + _double_boxes(annotations, verdict.boxes)
    findings += _ignored_objects(annotations, verdict.boxes)
    findings += _category_gaps(annotations, request.path)
    entries, boxes, parts = by_split(annotations.images, verdict.boxes)
    stats = _statistics(annotations.class_names, boxes, parts)
    findings += _empty_classes(stats, request.path) + _classes_alike(annotations.class_names, request.path)
    counts = np.bincount(boxes.owner, minlength=len(entries))
    findings += [
        Finding("image-background", f"{entry.name}: no annotation", entry.source)
        for entry, count in zip(entries, counts, strict=True)
        if count == 0
    ]
    findings.sort(key=lambda finding: SEVERITIES.index(finding.severity))
    title = describe(reader, len(entries), annotations.class_names, stats.splits)
    return Report(title, tuple(findings), stats, tuple(annotations.notes))


def _double_boxes(annotations: Annotations, boxes: BoxTable) -> list[Finding]:
    """Find pairs of boxes of one class in one image that overlap so much that they are one object."""
    findings = []
    for rows in _by_image(boxes):
        corners = torch.from_numpy(boxes.xyxy[rows])
        same = torch.from_numpy((boxes.label[rows][:, None] == boxes.label[rows]) & ~boxes.crowd[rows])
        overlap = box_iou(corners, corners).where(same & same.mT, 0).triu(1)
        for i, j in (overlap >= SAME_BOX).nonzero().tolist():
            text, other = annotations.box_text(boxes, rows[j]), int(boxes.place[rows[i]])
            message = f"{text} repeats the box of {annotations.places} {other} (IoU {overlap[i, j]:.2f})"
            findings.append(annotations.box_finding("box-duplicate", boxes, rows[j], message))
    return findings


def _ignored_objects(annotations: Annotations, boxes: BoxTable) -> list[Finding]:
    """Find objects of which most lies in one region to ignore, where nothing is matched."""
    findings = []
    for rows in (rows for rows in _by_image(boxes) if boxes.crowd[rows].any()):
        objects, regions = rows[~boxes.crowd[rows]], rows[boxes.crowd[rows]]
        own, crowd = torch.from_numpy(boxes.xyxy[objects]), torch.from_numpy(boxes.xyxy[regions])
        low, high = torch.maximum(own[:, None, :2], crowd[:, :2]), torch.minimum(own[:, None, 2:], crowd[:, 2:])
        share, which = ((high - low).clamp(min=0).prod(-1) / box_area(own)[:, None]).max(1)
        for i in (share > SWALLOWED).nonzero().flatten().tolist():
            text, region = annotations.box_text(boxes, objects[i]), int(boxes.place[regions[which[i]]])
            message = f"{text} lies by {share[i]:.0%} in the region to ignore of {annotations.places} {region}"
            findings.append(annotations.box_finding("box-ignored", boxes, objects[i], message))
    return findings


def _by_image(boxes: BoxTable) -> Iterator[NDArray[np.intp]]:
    """Yield the rows of each image that has boxes."""
    order = np.argsort(boxes.owner, kind="stable")
    yield from np.split(order, np.flatnonzero(np.diff(boxes.owner[order])) + 1)


def _category_gaps(annotations: Annotations, path: Path) -> list[Finding]:
    ids = sorted(annotations.category_ids)
    if not ids or ids[-1] - ids[0] + 1 == len(ids):
        return []
    return [Finding("category-gap", f"{len(ids)} category ids from {ids[0]} to {ids[-1]} with gaps", path)]


def _empty_classes(stats: Statistics, path: Path) -> list[Finding]:
    """Find classes without an object, anywhere or in the training split."""
    train = stats.splits["train"].classes if "train" in stats.splits else stats.classes
    return [
        Finding("class-empty", f"class {name!r} has no object in train ({stats.classes[name]} elsewhere)", path)
        for name, count in train.items()
        if count == 0
    ]


def _classes_alike(names: Sequence[str], path: Path) -> list[Finding]:
    """Find classes whose names differ in case and spaces only."""
    alike = defaultdict(list)
    for name in names:
        alike["".join(name.casefold().split())].append(name)
    written = (", ".join(map(repr, group)) for group in alike.values() if len(group) > 1)
    return [Finding("class-case", f"classes differ in case or spaces only: {group}", path) for group in written]


def _statistics(class_names: tuple[str, ...], boxes: BoxTable, parts: list[tuple[str, int, int]]) -> Statistics:
    columns = {}
    for split, start, stop in parts:
        inside = (boxes.owner >= start) & (boxes.owner < stop)
        counts = np.bincount(boxes.owner[inside] - start, minlength=stop - start)
        columns[split] = SplitColumns(counts, boxes.label[inside], boxes.crowd[inside], boxes.area[inside])
    return statistics(class_names, columns)
