"""Dynamic-k matching: every object takes as many of its cheapest priors as its best predictions overlap it in sum."""

from collections.abc import Callable
from typing import Final, Protocol

import torch
from torch import Tensor

from boxwright.assigners.blocks import block_elements, blocks, no_matches, over_objects
from boxwright.assigners.overlaps import EPS
from boxwright.assigners.scene import Scene
from boxwright.assigners.select import Favourites, match, top_k
from boxwright.boxes.iou import aligned_iou, box_iou
from boxwright.devices import widest
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["Cost", "Rule", "dynamic_k", "prices", "probability", "sum_over_classes"]

Cost = Callable[[slice, slice, Tensor], Tensor]

_LEAST: Final = 1024  # priors whose classes are summed together


class Rule(Protocol):
    """What an assigner by dynamic k decides itself."""

    @property
    def topk(self) -> int:
        """How many IoUs are summed to find an object's number of positives."""

    @property
    def ignore_threshold(self) -> float | None:
        """Share of a prior's area inside a crowd region above which it is ignored; None: never."""

    def reach(self, scene: Scene, images: slice, objects: slice) -> Tensor:
        """1 where an object of a block makes a prior a candidate, else 0: (b, g, L) float."""

    def costs(self, scene: Scene) -> Cost:
        """Return what tells of a block and its IoUs (b, g, L) what a match would cost, finite: (b, g, L)."""


def dynamic_k(rule: Rule, priors: Priors, targets: Targets, predictions: Predictions | None) -> Assignment:
    """Match by cost; Ge et al. 2021 (YOLOX), arXiv:2107.08430.

    A prior is a candidate when it is in reach of some object. k of an object is the sum of the `topk` largest IoUs of
    the candidates' predicted boxes with it, rounded down, at least 1; it takes the k cheapest candidates (the lowest
    index on ties). A prior that several objects take goes to the one, of all of the image, for which it is cheapest.

    Returns:
        Matches, scored by the IoU of predicted box and object.

    Raises:
        ValueError: no decoded predictions.
    """
    scene = Scene.of(priors, targets, predictions, rule.ignore_threshold)
    if (nothing := no_matches(scene.boxes, scene.covered)) is not None:
        return nothing
    candidate = _candidates(scene, rule)
    count = _most(candidate)
    if 2 * count > len(scene.priors):
        return _match(scene, candidate, rule.costs(scene), rule.topk)
    # most priors are nobody's: look at the others alone
    place = candidate.to(torch.int64).cumsum(1)
    index = place.new_zeros(len(place), count + 1)
    number = torch.arange(len(scene.priors), device=place.device).expand_as(place)
    index = index.scatter_(1, place.where(candidate > 0, 0), number)[:, 1:]
    some = scene.at(index)
    left = (torch.arange(count, device=place.device) < place[:, -1:]).to(candidate.dtype)
    found = _match(some, left, rule.costs(some), rule.topk).map(lambda t: t.gather(1, (place - 1).clamp(min=0)))
    gt_index = found.gt_index.where(candidate > 0, BACKGROUND).masked_fill(scene.covered, IGNORED)
    return Assignment(gt_index, found.score * candidate)


def _most(candidate: Tensor) -> int:
    """The largest number of candidates (B, L) of an image, at least 1, where the host need not wait for it; else L."""
    if candidate.device.type != "cpu" or torch.compiler.is_compiling():
        return candidate.shape[1]
    return max(1, *(int(count) for count in candidate.sum(1).tolist()))


def _match(scene: Scene, candidate: Tensor, cost: Cost, topk: int) -> Assignment:
    shape = (*scene.boxes.shape[:2], min(topk, len(scene.priors)))
    chosen = torch.zeros(shape, dtype=torch.int64, device=candidate.device)
    wanted = torch.zeros_like(chosen, dtype=torch.bool)
    cheapest = Favourites(candidate, start=-torch.inf)
    forbidden = torch.zeros_like(candidate).masked_fill(candidate == 0, torch.inf).unsqueeze(1)  # (B, 1, L)
    nobody = torch.zeros_like(scene.boxes[..., :1]).masked_fill(~scene.targets.objects.unsqueeze(-1), torch.inf)
    place = torch.arange(shape[2], device=candidate.device)
    for images, objects in blocks(scene.boxes, len(scene.priors)):
        iou = box_iou(scene.boxes[images, objects], scene.predicted[images], eps=EPS)  # (b, g, L)
        price = cost(images, objects, iou).clamp_(min=0)
        price = price.add_(forbidden[images]).add_(nobody[images, objects])
        k = top_k(iou.mul_(candidate[images, None]), topk)[0].sum(-1, keepdim=True).to(torch.int64).clamp_(min=1)
        value, chosen[images, objects] = top_k(price, topk, largest=False)
        wanted[images, objects] = (place < k) & (value < torch.inf)
        cheapest.see(price.neg_(), images, objects)
    index = match(chosen, torch.zeros_like(chosen, dtype=torch.float32), wanted, len(scene.priors))
    takers = torch.zeros_like(index).scatter_add(1, chosen.flatten(1), wanted.flatten(1).to(torch.int64))
    index = torch.where(takers > 1, cheapest.owner.to(torch.int64), index)
    score = aligned_iou(scene.boxes_of(index), scene.predicted, eps=EPS) * (index >= 0)
    return Assignment(index.masked_fill(scene.covered, IGNORED), score)


def prices(rule: Rule, priors: Priors, targets: Targets, predictions: Predictions | None) -> tuple[Tensor, Tensor]:
    """Return the costs that `dynamic_k` compares, infinite where a prior is no candidate, and the IoUs.

    (B, G, L) each, held at once: to look at a few images.
    """
    scene = Scene.of(priors, targets, predictions, rule.ignore_threshold)
    every = slice(0, len(scene.boxes)), slice(0, scene.boxes.shape[1])
    iou = box_iou(scene.boxes, scene.predicted, eps=EPS)
    price = rule.costs(scene)(*every, iou).clamp_(min=0)
    return price.masked_fill(_candidates(scene, rule).unsqueeze(1) == 0, torch.inf), iou


def _candidates(scene: Scene, rule: Rule) -> Tensor:
    """1 where a prior is in reach of some object and not in a region to ignore, else 0: (B, L) float."""
    candidate = scene.boxes.new_zeros(scene.covered.shape)
    for images, objects in blocks(scene.boxes, len(scene.priors)):
        candidate[images] = torch.maximum(candidate[images], over_objects(rule.reach(scene, images, objects)))
    return candidate.where(~scene.covered, 0.0)


def probability(logits: Tensor, out: Tensor | None = None) -> Tensor:
    """Sigmoid in single precision at least, by steps that round alike wherever an element stands in a tensor.

    On a CPU, torch.sigmoid treats the last elements of a tensor differently, so that the blocks would show.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return torch.neg(logits, out=out).exp_().add_(1).reciprocal_()


def sum_over_classes(function: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Sum of `function` over the last dimension of tensors (B, L, …), a block of priors at a time: (B, L).

    Added in double precision where the device has it, so that the result does not hang on the order of the classes.
    """
    wide = widest(tensors[0].device)
    step = max(_LEAST, block_elements(tensors[0]) // tensors[0].shape[-1])
    rows = [tensor.flatten(0, 1) for tensor in tensors]
    starts = range(0, len(rows[0]), step)
    sums = [function(*(row[start : start + step] for row in rows)).sum(-1, dtype=wide) for start in starts]
    return torch.cat(sums).to(torch.float32).reshape(tensors[0].shape[:2])
