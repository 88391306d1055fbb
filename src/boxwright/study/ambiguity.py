"""Objects whose sides a network is unsure of: a list for relabelling, the worst of them as pictures."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import torch
from PIL import Image
from torch import Tensor

from boxwright.data.dataset import read_record
from boxwright.data.records import ImageRecord
from boxwright.study.pictures import data_uri
from boxwright.study.scenes import Scenes
from boxwright.study.sides import SIDES, Peaks, Sides, excess_spread, peaks

__all__ = ["COLUMNS", "FOUND", "Ambiguity", "ambiguous_csv"]

COLUMNS: Final = (
    "image", "class", "x1", "y1", "x2", "y2", "ambiguity", "side", "spread", "first_peak", "second_peak",
    "prominence", "score", "iou", "crowding",
)  # fmt: skip
FOUND: Final = 0.5  # IoU of a predicted box that is the object's
_LAST: Final = 1e6  # more than any ambiguity
_LONGEST: Final = 360  # pixels of an embedded crop
_MARGIN: Final = 0.6  # of the object's longer side, around it


@dataclass(frozen=True, eq=False, slots=True)
class Ambiguity:
    """The objects of a data set with their sides, the most ambiguous first.

    The ambiguity of a side is the excess spread of its distribution over the object's length across it; that of an
    object is its most ambiguous side's. Objects that the network does not find come last: their sides are not theirs.

    Attributes:
        order: (N,) rows of the objects, the most ambiguous first.
        share: (N, 4) ambiguity of each side.
        spread: (N, 4) excess spread in input pixels.
        peaks: of (N, 4), in input pixels.
        sides: what the network says.
    """

    order: Tensor
    share: Tensor
    spread: Tensor
    peaks: Peaks
    sides: Sides

    @classmethod
    def of(cls, scenes: Scenes, sides: Sides) -> Self:
        """Rank the objects of a data set."""
        boxes = torch.from_numpy(scenes.boxes)
        length = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        spread = excess_spread(sides.probability, sides.outwards())
        share = spread / length.clamp(min=1)
        found = peaks(sides.probability, sides.place)
        order = (share.amax(1) - _LAST * (sides.iou < FOUND)).argsort(descending=True, stable=True)
        return cls(order, share, spread, found, sides)

    def rows(self, scenes: Scenes, names: Sequence[str], class_names: Sequence[str], scale: Tensor) -> list[list[Any]]:
        """Describe all objects by `COLUMNS`, the most ambiguous first.

        Args:
            scenes: the data set.
            names: of its images.
            class_names: of its labels.
            scale: (images, 2) x and y pixels of the stored image to one of the input.
        """
        side = self.share.argmax(1)
        own = torch.arange(len(side))
        along = scale[torch.from_numpy(scenes.image)]  # (N, 2)
        across = along[own, side % 2]
        boxes = torch.from_numpy(scenes.boxes) * along.repeat(1, 2)
        numbers = torch.stack(
            [
                self.share[own, side],
                self.spread[own, side] * across,
                self.peaks.first[own, side] * across,
                self.peaks.second[own, side] * across,
                self.peaks.prominence[own, side],
                self.sides.score,
                self.sides.iou,
                torch.from_numpy(scenes.crowding),
            ],
            dim=1,
        )
        rows = []
        for row in self.order.tolist():
            share, spread, first, second, prominence, *rest = (round(value, 4) for value in numbers[row].tolist())
            box = [round(edge, 1) for edge in boxes[row].tolist()]
            label = class_names[scenes.labels[row]]
            place = [round(spread, 2), round(first, 1), round(second, 1), prominence]
            rows.append([names[scenes.image[row]], label, *box, share, SIDES[int(side[row])], *place, *rest])
        return rows

    def drawn(
        self, scenes: Scenes, records: Sequence[ImageRecord], scale: Tensor, *, first: int, peaked: int, among: int
    ) -> dict[str, dict[str, Any]]:
        """Draw objects: a crop of the stored image, and boxes and distributions in its pixels.

        Args:
            scenes: the data set.
            records: its images.
            scale: as for `rows`.
            first: how many from the start of the list.
            peaked: how many more of those with the highest second peaks.
            among: how far down the list these are looked for.

        Returns:
            The drawings by place in the list, from 0.

        Raises:
            DataError: an image cannot be read.
        """
        second = self.peaks.prominence.amax(1)[self.order[:among]]
        places = [*range(min(first, len(second))), *second.argsort(descending=True)[:peaked].tolist()]
        return {str(place): self._draw(scenes, records, scale, int(self.order[place])) for place in sorted({*places})}

    def _draw(self, scenes: Scenes, records: Sequence[ImageRecord], scale: Tensor, row: int) -> dict[str, Any]:
        image = int(scenes.image[row])
        record, along = records[image], scale[image].repeat(2)
        box = torch.from_numpy(scenes.boxes[row]) * along
        pixels = Image.fromarray(read_record(record).permute(1, 2, 0).numpy())
        margin = _MARGIN * float((box[2:] - box[:2]).max()) + 2
        x1, y1 = (max(0, int(edge - margin)) for edge in box[:2].tolist())
        x2 = min(pixels.width, int(box[2] + margin) + 1)
        y2 = min(pixels.height, int(box[3] + margin) + 1)
        crop = pixels.crop((x1, y1, x2, y2))
        corner = torch.tensor([x1, y1, x1, y1])
        both = (self.peaks.first[row], self.peaks.second[row])
        return {
            "picture": data_uri(crop, min(4.0, _LONGEST / max(crop.size))),
            "width": crop.width,
            "height": crop.height,
            "box": _round(box - corner),
            "predicted": _round(self.sides.boxes[row] * along - corner),
            "share": _round(self.share[row], 3),
            "peaks": [_round(where * along - corner) for where in both],
            "prominence": _round(self.peaks.prominence[row], 3),
            "place": [_round(side) for side in self.sides.place[row] * along[:, None] - corner[:, None]],
            "probability": [_round(side, 3) for side in self.sides.probability[row]],
        }


def ambiguous_csv(rows: Sequence[Sequence[Any]]) -> str:
    """Write the list as CSV with a heading and the rank, boxes and peaks in pixels of the stored image."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(("rank", *COLUMNS))
    writer.writerows((number, *row) for number, row in enumerate(rows, start=1))
    return stream.getvalue()


def _round(values: Tensor, digits: int = 1) -> list[float]:
    return [round(value, digits) for value in values.tolist()]
