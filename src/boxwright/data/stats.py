"""What a data set consists of: images, objects per class and split, and how large the objects are."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

SIZES = {"small": 32.0**2, "medium": 96.0**2, "large": float("inf")}  # COCO's areas in square pixels


class SplitColumns(NamedTuple):
    """A split as arrays: boxes per image (images,), and labels, crowd flags and areas (boxes,)."""

    counts: NDArray[Any]
    labels: NDArray[Any]
    crowd: NDArray[Any]
    area: NDArray[Any]


@dataclass(frozen=True)
class SplitStatistics:
    """Counts of one split; crowd regions count as neither objects nor sizes."""

    images: int
    background: int
    objects: int
    crowd: int
    classes: dict[str, int]
    sizes: dict[str, int]
    per_image: dict[str, float]


@dataclass(frozen=True)
class Statistics:
    """The statistics of every split."""

    splits: dict[str, SplitStatistics]

    @property
    def classes(self) -> dict[str, int]:
        """Objects per class over all splits."""
        return _total(split.classes for split in self.splits.values())

    @property
    def sizes(self) -> dict[str, float]:
        """Shares of small, medium and large objects over all splits (COCO's areas), 0 where there are no objects."""
        sizes = _total(split.sizes for split in self.splits.values())
        objects = max(sum(sizes.values()), 1)
        return {name: count / objects for name, count in sizes.items()}

    def to_dict(self) -> dict[str, Any]:
        """Return what `--json` prints."""
        return asdict(self) | {"classes": self.classes, "sizes": self.sizes}


def count_sizes(areas: NDArray[Any] | Sequence[float]) -> dict[str, int]:
    """Count the objects of each of COCO's sizes, by their areas in square pixels."""
    counts = np.bincount(np.digitize(areas, list(SIZES.values())[:-1]), minlength=len(SIZES))
    return dict(zip(SIZES, counts.tolist(), strict=True))


def statistics(class_names: tuple[str, ...], splits: Mapping[str, SplitColumns]) -> Statistics:
    """Count images, objects, classes and sizes of every split."""
    return Statistics({name: _split_statistics(class_names, columns) for name, columns in splits.items()})


def _split_statistics(class_names: tuple[str, ...], columns: SplitColumns) -> SplitStatistics:
    counts, labels, crowd, area = columns
    objects = (crowd == 0) & (labels >= 0)
    classes = np.bincount(labels[objects], minlength=len(class_names)).tolist()
    spread = np.min(counts), np.median(counts), np.mean(counts), np.max(counts)
    return SplitStatistics(
        images=len(counts),
        background=int((counts == 0).sum()),
        objects=int(objects.sum()),
        crowd=int((crowd != 0).sum()),
        classes=dict(zip(class_names, classes, strict=True)),
        sizes=count_sizes(area[objects]),
        per_image=dict(zip(("min", "median", "mean", "max"), map(float, spread), strict=True)),
    )


def _total(counts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Add up dictionaries with the same keys."""
    total: dict[str, int] = {}
    for part in counts:
        total = {name: total.get(name, 0) + count for name, count in part.items()}
    return total
