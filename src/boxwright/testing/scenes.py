"""Scenes on which assigners are tried: ordinary ones, and ones full of boxes that nobody draws on purpose."""

from typing import NamedTuple

import torch
from torch import Tensor

from boxwright.boxes import AnchorGenerator
from boxwright.structures import Predictions, Priors, Targets

__all__ = [
    "Scene",
    "crowded_scene",
    "fitted_scene",
    "random_predictions",
    "random_priors",
    "random_scene",
    "random_targets",
]

SIZE, CLASSES, STRIDES = 64, 4, (8, 16, 32)


class Scene(NamedTuple):
    """One call of an assigner: `assigner(*scene)`."""

    priors: Priors
    targets: Targets
    predictions: Predictions


def random_scene(seed: int = 0, *, hostile: bool = True, crowd: bool = True) -> Scene:
    """One to three images with up to seven objects each, the rest padding, on grids of 1 or 3 anchors per cell.

    Args:
        seed: of everything in it.
        hostile: whether boxes are tiny, huge, outside, without area, twice there or whole pixels (so that overlaps
            tie), and predictions constant, saturated, inverted or far too large.
        crowd: whether some objects are regions to ignore.
    """
    draw = torch.Generator().manual_seed(seed)
    images, objects, anchors, corner, low = (
        int(torch.randint(0, most, (), generator=draw)) for most in (3, 8, 2, 2, 2)
    )
    priors = random_priors(1 + 2 * anchors, corner / 2, height=40 if low else SIZE)
    targets = random_targets(seed, images + 1, objects, hostile=hostile, crowd=crowd)
    return Scene(priors, targets, random_predictions(seed, priors, images + 1, hostile=hostile))


def fitted_scene(seed: int) -> Scene:
    """Three images with five, four and three objects that nearly fill a prior each, so that any rule matches some."""
    draw = torch.Generator().manual_seed(seed)
    priors = random_priors(3)
    boxes = priors.boxes[torch.randint(0, len(priors), (3, 5), generator=draw)]
    size = (boxes[..., 2:] - boxes[..., :2]).repeat(1, 1, 2)
    boxes = boxes + size * 0.1 * torch.rand(boxes.shape, generator=draw)
    valid = torch.arange(5) < torch.tensor([[5], [4], [3]])
    labels = torch.randint(0, CLASSES, valid.shape, generator=draw)
    targets = Targets(boxes * valid[..., None], labels * valid, valid, torch.zeros_like(valid))
    return Scene(priors, targets, random_predictions(seed, priors, 3, hostile=False))


def crowded_scene(seed: int) -> Scene:
    """Two images with up to five objects, some of them regions to ignore."""
    priors = random_priors()
    targets = random_targets(seed, 2, 5, hostile=False, crowd=True)
    return Scene(priors, targets, random_predictions(seed, priors, 2, hostile=False))


def random_priors(per_cell: int = 1, offset: float = 0.5, height: int = SIZE, width: int = SIZE) -> Priors:
    """Anchors of strides 8, 16 and 32 for an image of `height` and `width` pixels (nothing about them is random)."""
    shapes = tuple(tuple((2.0 * s * (a + 1), 2.0 * s) for a in range(per_cell)) for s in STRIDES)
    return AnchorGenerator(STRIDES, shapes, offset)([(-(-height // s), -(-width // s)) for s in STRIDES])


def random_targets(seed: int, images: int, objects: int, *, hostile: bool, crowd: bool) -> Targets:
    """Up to `objects` objects in each image, the others are padding; see `random_scene`."""
    draw = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 9 if hostile else 1, (images, objects), generator=draw).tolist()
    boxes = torch.zeros(images, objects, 4)
    for image, row in enumerate(kinds):
        for place, kind in enumerate(row):
            again = hostile and kind == 8 and place > 0  # a duplicate
            boxes[image, place] = boxes[image, place - 1] if again else _box(kind if hostile else 9, draw)
    labels = torch.randint(0, CLASSES, (images, objects), generator=draw)
    count = torch.randint(0, objects + 1, (images, 1), generator=draw)
    valid = torch.arange(objects) < count
    crowded = (torch.rand(images, objects, generator=draw) < 0.25) & valid & crowd
    return Targets(boxes * valid[..., None], labels * valid, valid, crowded)


def random_predictions(seed: int, priors: Priors, images: int, *, hostile: bool) -> Predictions:
    """Boxes near the priors, logits of 4 classes, objectness; see `random_scene`."""
    draw = torch.Generator().manual_seed(seed)
    shape = (images, len(priors))
    noise = torch.randn(*shape, 4, generator=draw) * priors.strides[:, None]
    logits = torch.randn(*shape, CLASSES, generator=draw)
    if hostile:  # a constant head: many exact ties; some boxes inverted, some far too large
        noise = noise * torch.randint(0, 2, (*shape, 1), generator=draw)
        noise = noise * torch.where(torch.rand(*shape, 1, generator=draw) < 0.1, 1e30, 1.0)
        logits = (logits * 2).round() * torch.where(torch.rand(*shape, 1, generator=draw) < 0.1, 1e4, 1.0)
    objectness = torch.randn(*shape, 1, generator=draw)
    return Predictions(logits, noise, {"objectness": objectness}, priors.boxes + noise)


def _box(kind: int, draw: torch.Generator) -> Tensor:
    place = torch.rand(4, generator=draw)
    low, side = place[:2] * SIZE, 2.0 ** (place[2:] * 6)
    if kind == 0:  # whole pixels: exact ties
        low, side = low.round(), side.round()
    elif kind == 1:  # smaller than a stride
        side = side / 20
    elif kind == 2:  # larger than the image
        low, side = low - 2 * SIZE, side + 4 * SIZE
    elif kind == 3:  # outside
        low = low + torch.tensor([3.0 * SIZE, -4.0 * SIZE])
    elif kind == 4:  # no area
        side = side * torch.tensor([1.0, 0.0])
    elif kind == 5:  # far away and huge
        low, side = low - 1e4, side + 3e4
    return torch.cat([low, low + side])
