"""Do the lists of boxes to look at again, of a run, find the defects that BCCD's README names?

Of annotated boxes: cells boxed twice (same class, IoU over 0.8), and wrong classes. Of missing ones: cells that were
annotated in one of two pictures of the same field and left out in the other, white cells without a box, and red cells
in images where none was annotated. Which share of each is in the first tenth of its list? A list in random order has a
tenth there. Of the detections without a box that the other picture shows as well, how many have a box there? And which
number says best where two people drew the same side differently?

The README is read for what it names: pairs as `00382(train)~00395(train)`, wrong classes as `00113 (train) a platelet
labelled WBC [257,430,288,457]`, and the images of its points 4 and 5. How far one picture of a field is shifted against
the other is found by correlation. Each split is a list of its own, as in `boxwright inspect --split`.

python benchmarks/relabel.py --run runs/gfl-tiny --data bccd --readme bccd/README.md
"""

import argparse
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.boxes import box_iou
from boxwright.data.index import DataIndex, open_dataset
from boxwright.data.records import ImageRecord
from boxwright.study.inspection.evidence import Evidence
from boxwright.study.inspection.inputs import Inputs
from boxwright.study.inspection.network import Network, pixels_of
from boxwright.study.inspection.sides import Sides
from boxwright.study.inspection.suspects import Suspects
from boxwright.study.inspection.unlabelled import Unlabelled

START = 0.1  # of a list


@dataclass(frozen=True)
class Lists:
    """What a run says about all images of a split: `scale` (images, 4) is pixels of the stored image to the input's."""

    records: Sequence[ImageRecord]
    scale: Tensor
    inputs: Inputs
    suspects: Suspects
    unlabelled: Unlabelled

    @classmethod
    def of(cls, network: Network, records: Sequence[ImageRecord]) -> "Lists":
        size, lay = network.recipe.data.size, network.after.detector.priors
        inputs = Inputs.of(records, size)
        evidence = Evidence.empty(network, len(inputs))
        if evidence is None:
            raise SystemExit("the run has no distributional boxes; train gfl-tiny, gflv2-tiny or nanodet-plus-tiny")
        for batch, pixels in pixels_of(records, inputs.batches(lay, most=8), size):
            evidence.add(batch, network.after.predict(pixels).predictions)
        scale = [frame.to_stored(record) for frame, record in zip(inputs.frames, records, strict=True)]
        return cls(records, torch.tensor(scale), inputs, *evidence.weighed(inputs))

    def suspicious(self, image: int, box: Tensor) -> float:
        """Place of an annotated box (4,) in the list of its split, 0 for the first and nearly 1 for the last."""
        rows = range(int(self.inputs.first[image]), int(self.inputs.first[image + 1]))
        own = (torch.from_numpy(self.inputs.boxes[rows.start : rows.stop]) * self.scale[image] - box).abs().sum(1)
        place = int((self.suspects.order == rows[int(own.argmin())]).nonzero())
        return place / len(self.inputs)

    def missing(self, image: int, box: Tensor | None = None, label: int | None = None) -> list[float]:
        """Places in the list of the detections in an image, at a box (4,) or of a class, the first one first."""
        found = self.unlabelled
        hit = found.image == image
        if label is not None:
            hit &= found.labels == label
        if box is not None:
            hit &= box_iou(found.boxes * self.scale[found.image], box[None])[:, 0] >= 0.5
        return (hit.nonzero()[:, 0] / max(len(found), 1)).tolist()


def shift(a: ImageRecord, b: ImageRecord) -> Tensor:
    """Pixels (x, y, x, y) by which boxes of the first picture must move to lie on the second."""
    one, two = (np.asarray(Image.open(record.path).convert("L"), float) for record in (a, b))
    height, width = one.shape
    spectra = [np.fft.rfft2(some - some.mean(), (2 * height, 2 * width)) for some in (one, two)]
    match = np.fft.irfft2(spectra[0] * np.conj(spectra[1]), (2 * height, 2 * width))
    y, x = np.unravel_index(match.argmax(), match.shape)
    x, y = x if x < width else x - 2 * width, y if y < height else y - 2 * height
    return -torch.tensor([x, y, x, y], dtype=torch.float32)


def overlaps(boxes: Tensor, other: ImageRecord, move: Tensor) -> tuple[Tensor, Tensor]:
    """IoU of boxes of a picture, moved, with those of the second one, and which lie inside that wholly."""
    boxes = boxes + move
    inside = (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= torch.tensor([other.width, other.height])).all(1)
    return box_iou(boxes, other.boxes), inside


class Truth:
    """The defects, each with its place in its list, and the sides that two people drew."""

    def __init__(self, lists: dict[str, Lists], readme: str, class_names: Sequence[str]) -> None:
        self.lists, self.readme = lists, readme
        self.where = {
            re.sub(r"\D", "", record.path.stem): (split, image)
            for split, some in lists.items()
            for image, record in enumerate(some.records)
        }
        self.label = {name: number for number, name in enumerate(class_names)}
        self.places: dict[str, list[tuple[str, float]]] = {}
        self.seconds: list[tuple[float, bool]] = []
        self.sides: list[tuple[Tensor, dict[str, Tensor]]] = []
        self.twice()
        self.wrong_class()
        self.pairs()
        self.unlabelled()

    def note(self, kind: str, split: str, place: float) -> None:
        self.places.setdefault(kind, []).append((split, place))

    def twice(self) -> None:
        for split, some in self.lists.items():
            for image, record in enumerate(some.records):
                same = record.labels[:, None] == record.labels
                twin = (box_iou(record.boxes, record.boxes).fill_diagonal_(0) * same > 0.8).any(1)
                for box in record.boxes[twin]:
                    self.note("annotated: boxed twice", split, some.suspicious(image, box))

    def wrong_class(self) -> None:
        pattern = r"(\d{5}) \(\w+\) an? \w+ labelled \w+ \[(\d+),(\d+),(\d+),(\d+)\]"
        for name, *box in re.findall(pattern, self.readme):
            split, image = self.where[name]
            place = self.lists[split].suspicious(image, torch.tensor([float(edge) for edge in box]))
            self.note("annotated: wrong class", split, place)

    def pairs(self) -> None:
        for names in re.findall(r"(\d+)\(\w+\)~(\d+)\(\w+\)", self.readme):
            a, b = (self.where[name] for name in names)
            move = shift(*(self.lists[split].records[image] for split, image in (a, b)))
            self.left_out(a, b, move)
            self.left_out(b, a, -move)
            self.second_opinion(a, b, move)
            self.second_opinion(b, a, -move)
            self.compare(a, b, move)

    def left_out(self, own: tuple[str, int], other: tuple[str, int], move: Tensor) -> None:
        """Boxes of a picture that lie inside the second one and have no box there with an IoU of a half."""
        record, second = (self.lists[split].records[image] for split, image in (own, other))
        iou, inside = overlaps(record.boxes, second, move)
        for box in record.boxes[inside & (iou.amax(1) < 0.5)]:
            split, image = other
            place = [*self.lists[split].missing(image, box + move), 1.0][0]
            self.note("missing: cell annotated in the other picture", split, place)
            self.note(
                "annotated: cell left out in the other picture", own[0], self.lists[own[0]].suspicious(own[1], box)
            )

    def second_opinion(self, own: tuple[str, int], other: tuple[str, int], move: Tensor) -> None:
        """Detections without a box that the second picture shows: their place, and whether it has a box there."""
        some, second = self.lists[own[0]], self.lists[other[0]].records[other[1]]
        rows = (some.unlabelled.image == own[1]).nonzero()[:, 0]
        boxes = some.unlabelled.boxes[rows] * some.scale[own[1]]
        iou, inside = overlaps(boxes, second, move)
        drawn = (iou.amax(1) >= 0.5).tolist()
        places = (rows / max(len(some.unlabelled), 1)).tolist()
        self.seconds += [
            entry for entry, there in zip(zip(places, drawn, strict=True), inside.tolist(), strict=True) if there
        ]

    def compare(self, own: tuple[str, int], other: tuple[str, int], move: Tensor) -> None:
        """Cells drawn in both: by how much of its length each side differs, and what the run says about it."""
        record, second = (self.lists[split].records[image] for split, image in (own, other))
        iou, inside = overlaps(record.boxes, second, move)
        best, partner = iou.max(1)
        rows = (inside & (best >= 0.5)).nonzero()[:, 0]
        boxes, partner = record.boxes[rows], partner[rows]
        length = (boxes[:, 2:] - boxes[:, :2]).repeat(1, 2)
        said = [self.said(*own, rows), self.said(*other, partner)]
        both = {name: torch.maximum(said[0][name], said[1][name]) for name in said[0]}
        self.sides.append(((boxes + move - second.boxes[partner]).abs() / length, both))

    def said(self, split: str, image: int, rows: Tensor) -> dict[str, Tensor]:
        some = self.lists[split]
        rows = rows + int(some.inputs.first[image])
        suspects, boxes = some.suspects, torch.from_numpy(some.inputs.boxes)
        likely = surprise(suspects.sides, boxes)[rows]
        return {
            "offset": suspects.offset[rows],
            "spread": suspects.spread[rows],
            "second peak": suspects.peaks.prominence[rows],
            "negative log likelihood": likely,
        }

    def unlabelled(self) -> None:
        points = dict(re.findall(r"^(\d+)\. (.*?)\. ", self.readme.partition("Known defects")[2], re.M))
        for name in re.findall(r"\d{5}", points["4"]):
            split, image = self.where[name]
            self.note(
                "missing: white cell", split, [*self.lists[split].missing(image, label=self.label["WBC"]), 1.0][0]
            )
        for name in re.findall(r"\d{5}", points["5"]):
            split, image = self.where[name]
            for place in self.lists[split].missing(image, label=self.label["RBC"]):
                self.note("missing: red cells seen in images without any", split, place)


def surprise(sides: Sides, boxes: Tensor) -> Tensor:
    """Negative log likelihood (N, 4) of the sides of boxes under the distributions, linear between bins."""
    value = sides.outwards().contiguous()
    side = (boxes * torch.tensor([-1.0, -1, 1, 1])).unsqueeze(-1)
    right = torch.searchsorted(value, side).clamp(1, value.shape[-1] - 1)
    below, above = value.gather(-1, right - 1), value.gather(-1, right)
    part = ((side - below) / (above - below).clamp(min=1e-6)).clamp(0, 1)
    p = sides.probability.gather(-1, right - 1) * (1 - part) + sides.probability.gather(-1, right) * part
    return -p.squeeze(-1).clamp(min=1e-6).log()


def report(truth: Truth) -> None:
    """Print the share of each kind of defect in the first tenth of its list, by split and in all."""
    for split, some in truth.lists.items():
        reasons = int(some.suspects.reasons.any(1).sum())
        print(f"{split}: {len(some.inputs):,} objects, {reasons} with a reason; {len(some.unlabelled):,} not annotated")
    for kind, places in truth.places.items():
        parts = []
        for name in ("all", *truth.lists):
            own = [place for split, place in places if name in ("all", split)]
            if own:
                first = sum(place < START for place in own)
                parts.append(f"{name} {first} of {len(own)} ({first / len(own):.0%})")
        listed = sum(place < 1 for _, place in places)
        print(f"{kind}: {', '.join(parts)}; {listed} of {len(places)} anywhere")
    for name, some in (("first tenth", [e for e in truth.seconds if e[0] < START]), ("whole list", truth.seconds)):
        drawn = sum(hit for _, hit in some)
        print(f"not annotated, {name}: {drawn} of {len(some)} in the other picture's view have a box there")
    move = torch.cat([move for move, _ in truth.sides]).flatten()
    tenth = len(move) // 10
    far = first_of(move, tenth)
    print(f"{len(move):,} sides that two people drew; of the tenth that differs most, in the first tenth by")
    for name in truth.sides[0][1]:
        values = torch.cat([said[name] for _, said in truth.sides]).flatten()
        print(f"  {name}: {float(torch.isin(far, first_of(values, tenth)).float().mean()):.0%}")


def first_of(values: Tensor, count: int) -> Tensor:
    """Rows of the largest values."""
    return values.argsort(descending=True, stable=True)[:count]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--run", "--data", "--readme"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    index: DataIndex = open_dataset(arguments.data)
    network: Any = Network.of_run(arguments.run, index)
    lists = {split: Lists.of(network, list(index.split(split))) for split in index.splits}
    report(Truth(lists, arguments.readme.read_text(encoding="utf-8"), index.class_names))


if __name__ == "__main__":
    main()
