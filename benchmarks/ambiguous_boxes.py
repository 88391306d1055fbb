"""Does the list of ambiguous boxes find the known defects of BCCD's annotations? Their share in its first tenth.

Defects are boxes of one cell drawn twice (same class, IoU over 0.8), and boxes of a cell that the second picture of
the same field leaves out. Which pictures show the same field is read from a text that names them as
`00382(train)~00395(train)`, such as the README of the data set; how far one is shifted is found by correlation.

python benchmarks/ambiguous_boxes.py --run runs/gfl-tiny --data bccd --pairs bccd/README.md
"""

import argparse
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from boxwright.boxes import box_iou
from boxwright.data.index import DataIndex, open_dataset
from boxwright.data.records import ImageRecord
from boxwright.study.ambiguity import Ambiguity
from boxwright.study.network import Network, pixels_of
from boxwright.study.scenes import Scenes
from boxwright.study.sides import Sides


def shift(a: ImageRecord, b: ImageRecord) -> tuple[int, int]:
    """Pixels (x, y) by which the second picture must move to lie on the first."""
    one, two = (np.asarray(Image.open(record.path).convert("L"), float) for record in (a, b))
    height, width = one.shape
    spectra = [np.fft.rfft2(some - some.mean(), (2 * height, 2 * width)) for some in (one, two)]
    match = np.fft.irfft2(spectra[0] * np.conj(spectra[1]), (2 * height, 2 * width))
    y, x = np.unravel_index(match.argmax(), match.shape)
    return int(x if x < width else x - 2 * width), int(y if y < height else y - 2 * height)


def left_out(own: ImageRecord, other: ImageRecord, x: int, y: int) -> Tensor:
    """Boxes that lie in the second picture as well, moved by (x, y), where nobody has drawn them."""
    moved = own.boxes + torch.tensor([x, y, x, y])
    inside = (moved[:, :2] >= 0).all(1) & (moved[:, 2:] <= torch.tensor([other.width, other.height])).all(1)
    return inside & (box_iou(moved, other.boxes).amax(1) < 0.5)


def twice(record: ImageRecord) -> Tensor:
    """Boxes of which the same class has another at nearly the same place."""
    same = record.labels[:, None] == record.labels
    return (box_iou(record.boxes, record.boxes).fill_diagonal_(0).where(same, 0.0) > 0.8).any(1)


def ranking(run: Path, index: DataIndex) -> tuple[Tensor, list[ImageRecord]]:
    """Ambiguity of every object of all splits, in the order of their images; -1 for those that are not found."""
    network = Network.of_run(run, index)
    if network.coder is None:
        raise SystemExit(f"{run} has no distributional boxes; train gfl-tiny, gflv2-tiny or nanodet-tiny")
    lay: Any = network.after.detector.priors
    values, every = [], []
    for split in index.splits:
        records = list(index.split(split))
        scenes = Scenes.of(records, network.recipe.data.size)
        sides = Sides.empty(len(scenes), network.coder)
        for batch, pixels in pixels_of(records, scenes.batches(lay, most=8), network.recipe.data.size):
            sides.add(batch, network.after.look(pixels).predictions, network.coder)
        found = Ambiguity.of(scenes, sides)
        values.append(found.share.amax(1).where(sides.iou >= 0.5, -1.0))
        every += records
    return torch.cat(values), every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--run", "--data", "--pairs"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    value, records = ranking(arguments.run, open_dataset(arguments.data))
    number = {re.sub(r"\D", "", record.path.stem): place for place, record in enumerate(records)}
    lone = [torch.zeros(len(record.boxes), dtype=torch.bool) for record in records]
    for names in re.findall(r"(\d+)\(\w+\)~(\d+)\(\w+\)", arguments.pairs.read_text(encoding="utf-8")):
        first, second = (number[name] for name in names)
        x, y = shift(records[first], records[second])
        lone[first] |= left_out(records[first], records[second], -x, -y)
        lone[second] |= left_out(records[second], records[first], x, y)
    kinds = {"drawn twice": torch.cat([twice(record) for record in records]), "left out in the other": torch.cat(lone)}
    kinds["either"] = kinds["drawn twice"] | kinds["left out in the other"]
    tenth = len(value) // 10
    listed = value.argsort(descending=True, stable=True)[:tenth]
    print(
        f"{len(value):,} objects, {int((value < 0).sum())} of them not found; the first tenth of the list are {tenth}"
    )
    for name, wrong in kinds.items():
        share = float(wrong[listed].sum() / wrong.sum())
        print(f"{name}: {int(wrong[listed].sum())} of {int(wrong.sum())} in it, {share:.1%}; by chance 10 %")


if __name__ == "__main__":
    main()
