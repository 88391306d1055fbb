"""Where a recipe's strides and anchors do not fit the objects, and anchors that would."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor

from boxwright.boxes import PointGenerator
from boxwright.boxes.fitting import fit_anchors, shape_iou
from boxwright.study.inspection.inputs import Inputs, PriorGenerator

__all__ = ["Advice", "anchor_steps", "fit_report"]

_SAMPLE: Final = 20_000  # objects that k-means looks at
_MOST_ANCHORS: Final = 12
_NEAR: Final = 0.05  # mean IoU
_WORTH_SAYING: Final = 0.02  # share of the objects


@dataclass(frozen=True, slots=True)
class Advice:
    """One thing that does not fit: what, how many objects it concerns, and what would help."""

    what: str
    objects: int
    help: str


def fit_report(inputs: Inputs, prior_generator: PriorGenerator) -> dict[str, Any]:
    """Compare a recipe's priors with the objects.

    Returns:
        `levels` (stride and anchor shapes of each), `advice`, and `anchors`: how well the recipe's overlap the objects,
        `steps` of `anchor_steps`, how many are `enough`, and `advice` in words. For points, whose boxes mean nothing,
        `anchors` is empty and the levels have no shapes.
    """
    sizes = torch.from_numpy(inputs.boxes[:, 2:] - inputs.boxes[:, :2])
    shapes = [] if isinstance(prior_generator, PointGenerator) else _shapes(prior_generator)
    levels = [
        {"stride": stride, "shapes": shapes[number].tolist() if shapes else []}
        for number, stride in enumerate(prior_generator.strides)
    ]
    advice = [*_of_strides(inputs, sizes, prior_generator.strides)]
    anchors: dict[str, Any] = {}
    if shapes and len(sizes):
        advice += _of_shapes(sizes, shapes)
        own, steps = _overlap(sizes, torch.cat(shapes)), anchor_steps(sizes)
        enough = _enough(steps)
        anchors = {"recipe": own, "steps": steps, "enough": enough, "advice": _recommend(own, steps[enough - 1])}
    return {"levels": levels, "advice": [asdict(entry) for entry in advice], "anchors": anchors}


def anchor_steps(sizes: Tensor) -> list[dict[str, Any]]:
    """Fit 1, 2, … 12 anchors to objects of given widths and heights (N, 2), as long as there are objects for them.

    Returns:
        `shapes`, the (width, height) of each anchor, and `mean_iou` with the best of them over the objects.
    """
    some = sizes[torch.randperm(len(sizes), generator=torch.Generator().manual_seed(0))[:_SAMPLE]]
    steps = []
    for count in range(1, min(_MOST_ANCHORS, len(some)) + 1):
        anchors = fit_anchors(some, count, steps=100)
        shapes = [[round(side, 1) for side in shape] for shape in anchors.tolist()]
        steps.append({"shapes": shapes} | _overlap(sizes, anchors))
    return steps


def _enough(steps: Sequence[dict[str, Any]]) -> int:
    """Return the least number of anchors whose mean IoU is near that of the most."""
    best = max(step["mean_iou"] for step in steps)
    return next(count for count, step in enumerate(steps, start=1) if step["mean_iou"] >= best - _NEAR)


def _recommend(own: dict[str, float], fitted: dict[str, Any]) -> str:
    """Say what fitted anchors would be, and how much better they fit than the recipe's."""
    shapes = ", ".join(f"{width:g}×{height:g}" for width, height in fitted["shapes"])
    enough = "1 is" if len(fitted["shapes"]) == 1 else f"{len(fitted['shapes'])} are"
    return (
        f"Anchors of {shapes} px (k-means, {enough} enough) overlap the objects by "
        f"{fitted['mean_iou']:.2f} on average and {fitted['under_half']:.1%} of them by less than half; "
        f"the recipe's by {own['mean_iou']:.2f} and {own['under_half']:.1%}."
    )


def _shapes(prior_generator: PriorGenerator) -> list[Tensor]:
    """Width and height of the anchors of a cell, (A, 2) for each level."""
    priors = prior_generator([(1, 1)] * len(prior_generator.strides))
    sizes = priors.boxes[:, 2:] - priors.boxes[:, :2]
    return list(sizes.split([level.size for level in priors.levels]))


def _overlap(sizes: Tensor, anchors: Tensor) -> dict[str, float]:
    """How well anchors (K, 2) around the centres of objects (N, 2) overlap them."""
    best = shape_iou(sizes, anchors).amax(dim=1)
    return {"mean_iou": float(best.mean()), "under_half": float((best < 0.5).float().mean())}


def _of_strides(inputs: Inputs, sizes: Tensor, strides: tuple[float, ...]) -> Iterator[Advice]:
    if inputs.vanished:
        yield Advice(
            "are less than a pixel wide or high at the network's input, and are left out of every batch",
            inputs.vanished,
            "A larger data.size, or cutting the images into tiles, keeps them.",
        )
    if not len(sizes):
        return
    finest, coarsest = strides[0], strides[-1]
    small = int((sizes.amin(dim=1) < finest).sum())
    if small >= _WORTH_SAYING * len(sizes):
        side = float(np.quantile(sizes.amin(dim=1).numpy(), 0.05))
        yield Advice(
            f"are narrower than one cell of the finest level (stride {finest:g})",
            small,
            f"A finer level (detector.backbone.levels starting one lower), or images {finest / max(side, 1):.1f} times "
            "as large: then 95 % of the objects are wider than a cell.",
        )
    long = float(sizes.amax())
    if long < 2 * coarsest:
        yield Advice(
            f"are shorter than two cells of the coarsest level (stride {coarsest:g}; the longest: {long:.0f} px)",
            len(sizes),
            "The coarsest level has little to do: fewer extra levels in detector.neck save time.",
        )


def _of_shapes(sizes: Tensor, shapes: list[Tensor]) -> Iterator[Advice]:
    every = torch.cat(shapes)
    area, anchor_area = sizes.prod(dim=1), every.prod(dim=1)
    smallest, largest = float(anchor_area.min()), float(anchor_area.max())
    small, large = int((area < smallest / 4).sum()), int((area > largest * 4).sum())
    if small >= _WORTH_SAYING * len(sizes):
        yield Advice(
            f"have less than a quarter of the area of the smallest anchor ({smallest**0.5:.0f} px), "
            "so none overlaps them by more than 0.25",
            small,
            "Smaller anchors (detector.priors), a finer level, or larger images.",
        )
    if large >= _WORTH_SAYING * len(sizes):
        yield Advice(
            f"have more than four times the area of the largest anchor ({largest**0.5:.0f} px)",
            large,
            "Larger anchors (detector.priors), or one more level (detector.neck.extra_levels).",
        )
    best = shape_iou(sizes, every).amax(dim=1)
    between = (best < 0.5) & (area >= smallest / 4) & (area <= largest * 4)
    if int(between.sum()) >= _WORTH_SAYING * len(sizes):
        yield Advice(
            "overlap no anchor by half even when it is centred on them: their aspect or size lies between anchors",
            int(between.sum()),
            "More ratios or scales in detector.priors; the fitted anchors below show which.",
        )
