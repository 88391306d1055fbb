"""Does the list of ambiguous boxes of a run find what is wrong or unsure in BCCD's annotations?

Wrong are boxes of one cell drawn twice (same class, IoU over 0.8), and boxes of a cell that the second picture of the
same field leaves out: which share of them is in the first tenth of the list? Unsure are the sides that two people have
drawn at different places in the two pictures of a field: are they those that the network spreads most?

Which pictures show the same field is read from a text that names them as `00382(train)~00395(train)`, such as the
README of the data set; how far one is shifted is found by correlation.

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


def moved(own: ImageRecord, other: ImageRecord, x: int, y: int) -> tuple[Tensor, Tensor]:
    """Boxes of a picture where they lie in the second one, and which of them lie inside it."""
    boxes = own.boxes + torch.tensor([x, y, x, y])
    return boxes, (boxes[:, :2] >= 0).all(1) & (boxes[:, 2:] <= torch.tensor([other.width, other.height])).all(1)


def left_out(own: ImageRecord, other: ImageRecord, x: int, y: int) -> Tensor:
    """Boxes that lie in the second picture as well, where nobody has drawn them."""
    boxes, inside = moved(own, other, x, y)
    return inside & (box_iou(boxes, other.boxes).amax(1) < 0.5)


def disagreement(own: ImageRecord, other: ImageRecord, x: int, y: int) -> tuple[Tensor, Tensor, Tensor]:
    """Cells drawn in both pictures: their rows in each, and by how much of its length the second moves each side."""
    boxes, inside = moved(own, other, x, y)
    iou = box_iou(boxes, other.boxes) * inside[:, None]
    best, partner = iou.max(1)
    row = (best >= 0.5).nonzero()[:, 0]
    partner = partner[row]
    length = (boxes[row, 2:] - boxes[row, :2]).repeat(1, 2)
    return row, partner, (boxes[row] - other.boxes[partner]).abs() / length


def twice(record: ImageRecord) -> Tensor:
    """Boxes of which the same class has another at nearly the same place."""
    same = record.labels[:, None] == record.labels
    return (box_iou(record.boxes, record.boxes).fill_diagonal_(0).where(same, 0.0) > 0.8).any(1)


def ranking(run: Path, index: DataIndex) -> tuple[Tensor, list[ImageRecord]]:
    """Ambiguity of the sides of every object of all splits, (N, 4) in the order of their images; -1 where not found."""
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
        values.append(found.share.where(sides.iou[:, None] >= 0.5, -1.0))
        every += records
    return torch.cat(values), every


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--run", "--data", "--pairs"):
        parser.add_argument(name, type=Path, required=True)
    arguments = parser.parse_args()
    share, records = ranking(arguments.run, open_dataset(arguments.data))
    first = torch.tensor([0, *(len(record.boxes) for record in records)]).cumsum(0)  # row of the first object
    place = {re.sub(r"\D", "", record.path.stem): number for number, record in enumerate(records)}
    lone = [torch.zeros(len(record.boxes), dtype=torch.bool) for record in records]
    moves, spreads = [], []
    for names in re.findall(r"(\d+)\(\w+\)~(\d+)\(\w+\)", arguments.pairs.read_text(encoding="utf-8")):
        a, b = (place[name] for name in names)
        x, y = shift(records[a], records[b])
        lone[a] |= left_out(records[a], records[b], -x, -y)
        lone[b] |= left_out(records[b], records[a], x, y)
        own, other, move = disagreement(records[a], records[b], -x, -y)
        moves.append(move)
        spreads.append((share[first[a] + own] + share[first[b] + other]) / 2)
    wrong = {"drawn twice": torch.cat([twice(record) for record in records]), "left out": torch.cat(lone)}
    listed(share.amax(1), wrong | {"either": wrong["drawn twice"] | wrong["left out"]})
    compared(torch.cat(spreads).flatten(), torch.cat(moves).flatten())


def listed(value: Tensor, wrong: dict[str, Tensor]) -> None:
    """Print the share of each kind of mistake in the first tenth of the list."""
    tenth = len(value) // 10
    start = value.argsort(descending=True, stable=True)[:tenth]
    print(
        f"{len(value):,} objects, {int((value < 0).sum())} of them not found; the first tenth of the list are {tenth}"
    )
    for name, kind in wrong.items():
        print(
            f"{name}: {int(kind[start].sum())} of {int(kind.sum())} in it, {float(kind[start].sum() / kind.sum()):.1%}"
        )


def compared(spread: Tensor, move: Tensor) -> None:
    """Print how the spread of sides goes with how differently two people have drawn them."""
    tenth = len(move) // 10
    widest, farthest = (values.argsort(descending=True, stable=True)[:tenth] for values in (spread, move))
    share = float(torch.isin(farthest, widest).float().mean())
    ranks = torch.stack([values.argsort().argsort().double() for values in (spread, move)])
    print(f"{len(move):,} sides drawn twice: rank correlation {float(torch.corrcoef(ranks)[0, 1]):.2f}")
    print(f"of the tenth that people draw most differently {share:.1%} are in the tenth that the network spreads most")
    far, rest = move[widest], move[spread.argsort(descending=True, stable=True)[tenth:]]
    print(f"people differ by {float(far.mean()):.1%} of the length there, by {float(rest.mean()):.1%} elsewhere")


if __name__ == "__main__":
    main()
