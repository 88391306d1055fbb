"""Random scenes for assigners, hostile on purpose."""

import torch
from hypothesis import strategies as st
from torch import Tensor

from boxwright.boxes import AnchorGenerator
from boxwright.structures import Predictions, Priors, Targets

SIZE = 64
CLASSES = 4


def make_priors(per_cell: int = 1, offset: float = 0.5, height: int = SIZE, width: int = SIZE) -> Priors:
    strides = (8, 16, 32)
    shapes = tuple(tuple((2.0 * s * (a + 1), 2.0 * s) for a in range(per_cell)) for s in strides)
    return AnchorGenerator(strides, shapes, offset)([(-(-height // s), -(-width // s)) for s in strides])


def _box(kind: int, generator: torch.Generator) -> Tensor:
    draw = torch.rand(4, generator=generator)
    low, side = draw[:2] * SIZE, 2.0 ** (draw[2:] * 6)
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


def make_targets(seed: int, images: int, objects: int, *, hostile: bool, crowd: bool) -> Targets:
    """Each image has up to `objects` objects, the others are padding."""
    generator = torch.Generator().manual_seed(seed)
    kinds = torch.randint(0, 9 if hostile else 1, (images, objects), generator=generator).tolist()
    boxes = torch.zeros(images, objects, 4)
    for image, row in enumerate(kinds):
        for place, kind in enumerate(row):
            again = hostile and kind == 8 and place > 0  # a duplicate
            boxes[image, place] = boxes[image, place - 1] if again else _box(kind if hostile else 9, generator)
    labels = torch.randint(0, CLASSES, (images, objects), generator=generator)
    count = torch.randint(0, objects + 1, (images, 1), generator=generator)
    valid = torch.arange(objects) < count
    crowded = (torch.rand(images, objects, generator=generator) < 0.25) & valid & crowd
    return Targets(boxes * valid[..., None], labels * valid, valid, crowded)


def make_predictions(seed: int, priors: Priors, images: int, *, hostile: bool) -> Predictions:
    generator = torch.Generator().manual_seed(seed)
    shape = (images, len(priors))
    noise = torch.randn(*shape, 4, generator=generator) * priors.strides[:, None]
    if hostile:  # a constant head: many exact ties; some boxes inverted, some far too large
        noise = noise * torch.randint(0, 2, (*shape, 1), generator=generator)
        noise = noise * torch.where(torch.rand(*shape, 1, generator=generator) < 0.1, 1e30, 1.0)
    logits = torch.randn(*shape, CLASSES, generator=generator)
    if hostile:
        logits = (logits * 2).round() * torch.where(torch.rand(*shape, 1, generator=generator) < 0.1, 1e4, 1.0)
    objectness = torch.randn(*shape, 1, generator=generator)
    boxes = priors.boxes + noise
    return Predictions(logits, noise, {"objectness": objectness}, boxes)


@st.composite
def scenes(draw: st.DrawFn, *, hostile: bool = True, crowd: bool = True) -> tuple[Priors, Targets, Predictions]:
    """Priors, targets and predictions of one to three images with up to seven objects."""
    seed, images, objects = draw(st.integers(0, 10**6)), draw(st.integers(1, 3)), draw(st.integers(0, 7))
    per_cell, offset = draw(st.sampled_from([1, 3])), draw(st.sampled_from([0.0, 0.5]))
    priors = make_priors(per_cell, offset, height=draw(st.sampled_from([40, SIZE])))
    targets = make_targets(seed, images, objects, hostile=hostile, crowd=crowd)
    return priors, targets, make_predictions(seed, priors, images, hostile=hostile)
