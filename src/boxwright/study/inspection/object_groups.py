"""Kinds of objects, by size, aspect, class and crowding, and what a tally says about each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.tally import Tally

__all__ = ["BINS", "Axis", "Cells", "axes"]

# Lower bounds of the bins of an object's number of positives, and what they are called.
BINS: Final = {"0": 0, "1": 1, "2": 2, "3–4": 3, "5–8": 5, "9–16": 9, "17+": 17}
_SIZES: Final = {"under 8 px": 8, "8–16 px": 16, "16–32 px": 32, "32–64 px": 64, "64–128 px": 128, "128–256 px": 256}
_ASPECTS: Final = {"tall, over 3:1": 1 / 3, "tall": 2 / 3, "square": 3 / 2, "wide": 3}
_CROWDING: Final = {"apart": 1e-9, "IoU under 0.3": 0.3, "IoU 0.3–0.5": 0.5, "IoU 0.5–0.8": 0.8}


@dataclass(frozen=True, eq=False, slots=True)
class Axis:
    """One way to divide the objects.

    Attributes:
        key: its name in JSON.
        title: its name for people.
        note: what it measures.
        values: the names of its groups, in order.
        member: (N,) which group each object belongs to.
    """

    key: str
    title: str
    note: str
    values: tuple[str, ...]
    member: NDArray[np.int64]


def axes(inputs: Inputs, class_names: Sequence[str]) -> tuple[Axis, ...]:
    """Divide the objects by size, aspect, crowding and class."""
    width, height = (inputs.boxes[:, 2:] - inputs.boxes[:, :2]).T
    side, aspect = np.sqrt(width * height), width / height
    return (
        _binned("size", "Size", "root of the area, in pixels of the network's input", _SIZES, "256 px and more", side),
        _binned("aspect", "Aspect", "width to height", _ASPECTS, "wide, over 3:1", aspect),
        _binned(
            "crowding",
            "Crowding",
            "largest IoU with another object",
            _CROWDING,
            "IoU 0.8+, duplicate?",
            inputs.crowding,
        ),
        Axis("class", "Class", "", tuple(class_names), inputs.labels),
    )


class Cells:
    """The objects by all axes at once: what a page needs to filter by any of them, in a size that does not grow with N.

    Attributes:
        axes: the ways to divide.
        keys: (cells, axes) the group of each cell on each axis; only cells with objects.
        of: (N,) the cell of each object.
    """

    def __init__(self, axes: tuple[Axis, ...]) -> None:
        self.axes = axes
        members = np.stack([axis.member for axis in axes], axis=1)
        self.keys, self.of = np.unique(members, axis=0, return_inverse=True)
        self.of = self.of.reshape(-1)

    def counts(self, tally: Tally) -> NDArray[np.int64]:
        """Sum a tally by cell: (cells, bins + levels + 2), objects by bin, positives by level, wanted, lost."""
        bins = np.digitize(tally.positives.sum(axis=1), list(BINS.values())) - 1
        columns = np.concatenate(
            [np.eye(len(BINS), dtype=np.int64)[bins], tally.positives, tally.wanted[:, None], tally.lost[:, None]],
            axis=1,
        )
        counts = np.zeros((len(self.keys), columns.shape[1]), np.int64)
        np.add.at(counts, self.of, columns)
        return counts

    def by_axis(self, counts: NDArray[np.int64]) -> dict[str, list[dict[str, Any]]]:
        """Describe every group of every axis by `describe`."""
        return {
            axis.key: [
                {"name": name} | describe(counts[self.keys[:, column] == number].sum(axis=0))
                for number, name in enumerate(axis.values)
            ]
            for column, axis in enumerate(self.axes)
        }


def describe(counts: NDArray[np.int64]) -> dict[str, Any]:
    """Name the counts of a group, (bins + levels + 2,); shares are None where nothing was counted."""
    bins, levels, (wanted, lost) = counts[: len(BINS)], counts[len(BINS) : -2], counts[-2:]
    objects, positives = int(bins.sum()), int(levels.sum())
    return {
        "objects": objects,
        "unmatched": int(bins[0]),
        "unmatched_share": _share(bins[0], objects),
        "positives": positives,
        "positives_per_object": _share(positives, objects),
        "by_level": levels.tolist(),
        "histogram": bins.tolist(),
        "wanted": int(wanted),
        "lost": int(lost),
        "lost_share": _share(lost, wanted),
    }


def _share(part: int | np.int64, whole: int | np.int64) -> float | None:
    return float(part) / float(whole) if whole else None


def _binned(key: str, title: str, note: str, bounds: Mapping[str, float], last: str, values: NDArray[Any]) -> Axis:
    return Axis(key, title, note, (*bounds, last), np.digitize(values, list(bounds.values())))
