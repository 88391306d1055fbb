"""Task-aligned assignment: an object takes the priors that are good at its class and at its box at once."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from boxwright.assigners.blocks import blocks, no_matches, of_images
from boxwright.assigners.dynamic_k import probability
from boxwright.assigners.grid import inside_margin
from boxwright.assigners.nearby import SHARE, Groups
from boxwright.assigners.options import check_options
from boxwright.assigners.overlaps import EPS
from boxwright.assigners.scene import Scene
from boxwright.assigners.select import Favourites, keep_best, match, take, top_k
from boxwright.boxes.iou import aligned_iou
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["TaskAlignedAssigner"]


@dataclass(frozen=True, slots=True)
class TaskAlignedAssigner:
    """Feng et al. 2021 (TOOD), arXiv:2108.07755, by default as the authors compute it.

    With s the predicted probability of an object's class and u the overlap of the predicted box with it, the alignment
    is t = s^alpha · u^beta. An object chooses the `topk` priors with the largest t (the lowest index on ties), of all
    levels; those with t = 0 and those whose centre is not inside the object are dropped. A prior that several objects
    choose goes to the one with the largest u, on ties to the lowest index. The score of a positive is t, scaled so that
    the best of an object gets the object's largest u. Priors covered by a crowd region are ignored.

    Attributes:
        topk: priors that an object chooses.
        alpha: exponent of the class probability.
        beta: exponent of the overlap.
        inside: whether a centre must be inside "after" being chosen (TOOD) or already "before".
        overlap: "ciou" is clamped at 0.
        conflicts: which objects a prior chosen by several compares: those that chose it ("selected"), all around it
            ("inside", ultralytics) or all of the image ("all", PaddleDetection).
        margin: pixels by which a centre must lie inside; 1e-9 in PaddleDetection and ultralytics.
        eps: added to the largest t of an object before t is divided by it.
        small_level: for the inside test, an object's sides are at least the stride of this level, of the last where
            there are fewer; None: as they are.
        final_topk: keep at most so many positives per object after conflicts, by t; None: all.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    topk: int = 13
    alpha: float = 1.0
    beta: float = 6.0
    inside: Literal["after", "before"] = "after"
    overlap: Literal["iou", "ciou"] = "iou"
    conflicts: Literal["selected", "inside", "all"] = "selected"
    margin: float = 0.01
    eps: float = 1e-7
    small_level: int | None = None
    final_topk: int | None = None
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)
        if self.alpha < 0 or self.beta <= 0:
            raise ValueError(f"alpha must be at least 0 and beta above 0, got {self.alpha} and {self.beta}")

    @classmethod
    def paddle(cls, topk: int = 13, alpha: float = 1.0, beta: float = 6.0) -> Self:
        """Return the form of PaddleDetection."""
        return cls(topk, alpha, beta, inside="before", conflicts="all", margin=1e-9, eps=1e-9)

    @classmethod
    def ultralytics(cls, topk: int = 10, alpha: float = 0.5, beta: float = 6.0, final_topk: int | None = None) -> Self:
        """Return the form of ultralytics 8.4: CIoU, and objects enlarged to the stride of the second level."""
        return cls(topk, alpha, beta, "before", "ciou", "inside", 1e-9, 1e-9, small_level=1, final_topk=final_topk)

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images at once.

        Raises:
            ValueError: no decoded predictions, or `small_level` with priors that have no levels.
        """
        return self.assign_by_rank(priors, targets, predictions, (self.topk,))[0]

    def assign_by_rank(
        self,
        priors: Priors,
        targets: Targets,
        predictions: Predictions | None,
        ranks: tuple[int, ...],
    ) -> list[Assignment]:
        """Assign once for each of several `topk`, none above this one's, with one search; where gradients are off."""
        scene = Scene.of(priors, targets, predictions, self.ignore_threshold)
        if (nothing := no_matches(scene.boxes, scene.covered)) is not None:
            return [nothing for _ in ranks]
        metric, chosen, favourite = self._choose(scene)
        return [self._resolve(scene, metric[..., :rank], chosen[..., :rank], favourite) for rank in ranks]

    @torch.no_grad()
    def alignment(
        self, priors: Priors, targets: Targets, predictions: Predictions | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return t, s and u of every object and prior, (B, G, L) each and held at once: to look at a few images.

        t is 0 where a prior that `inside="before"` drops cannot be chosen; covered priors have u = 0.

        Raises:
            ValueError: no decoded predictions.
        """
        scene = Scene.of(priors, targets, predictions, self.ignore_threshold)
        every = slice(0, len(scene.boxes)), slice(0, scene.boxes.shape[1])
        overlap = self._overlap(scene.boxes.unsqueeze(2), scene.predicted.unsqueeze(1))
        logits = scene.class_logits(*every)
        aligned = self._metric(logits.clone(), overlap)
        if self.inside == "before":
            aligned = aligned * self._inside(scene, *every)
        return aligned, probability(logits), overlap

    def _choose(self, scene: Scene) -> tuple[Tensor, Tensor, Tensor]:
        """Find the priors with the largest t of every object, (B, G, k) t and index, and every prior's favourite."""
        shape = (*scene.boxes.shape[:2], min(self.topk, len(scene.priors)))
        metric = scene.boxes.new_zeros(shape)
        chosen = torch.zeros(shape, dtype=torch.int64, device=metric.device)
        favourites = Favourites(scene.covered)
        if self.conflicts == "selected" and metric.device.type == "cpu" and not torch.compiler.is_compiling():
            groups = Groups.of(scene.predicted)
            for images, objects in blocks(scene.boxes, -(-len(scene.priors) // SHARE)):
                found = self._choose_nearby(scene, groups, images, objects)
                metric[images, objects], chosen[images, objects] = found
            return metric, chosen, chosen.new_empty(0)
        for images, objects in blocks(scene.boxes, len(scene.priors)):
            overlap = self._overlap(
                scene.boxes[images, objects].unsqueeze(-2), scene.predicted[images].unsqueeze(-3)
            )  # (b, g, L)
            aligned = self._metric(scene.class_logits(images, objects), overlap)
            if self.inside == "before" or self.conflicts == "inside":
                inside = self._inside(scene, images, objects)
                aligned = aligned.mul_(inside) if self.inside == "before" else aligned
                overlap = overlap.mul_(inside) if self.conflicts == "inside" else overlap
            metric[images, objects], chosen[images, objects] = top_k(aligned, self.topk)
            if self.conflicts != "selected":
                favourites.see(overlap, images, objects)
        return metric, chosen, favourites.owner.to(torch.int64)

    def _choose_nearby(self, scene: Scene, groups: Groups, images: slice, objects: slice) -> tuple[Tensor, Tensor]:
        """The same for a block of objects, looking only at groups of priors that may overlap: (b, g, k) each."""
        boxes = scene.boxes[images, objects]
        pairs = groups.near(boxes, images)
        overlap = self._overlap(pairs.of_object(boxes), pairs.predicted)
        prior, image = pairs.priors(), pairs.image.unsqueeze(1)
        label = pairs.of_object(scene.targets.labels[images, objects])
        place = (image * len(scene.priors) + prior).mul_(scene.logits.shape[2]).add_(label)
        aligned = self._metric(scene.logits.take(place).to(torch.float32), overlap)
        if self.inside == "before":
            centers = scene.priors.centers
            centers = centers[prior] if centers.ndim == 2 else centers[image, prior]
            boxes = pairs.of_object(self._enlarge(scene)[images, objects])
            aligned = aligned.mul_(inside_margin(boxes, centers) > self.margin)
        return pairs.top_k(aligned, self.topk)

    def _resolve(self, scene: Scene, metric: Tensor, chosen: Tensor, favourite: Tensor) -> Assignment:
        """Settle conflicts between the objects' choices, (B, G, k), and score the winners."""
        margin = inside_margin(self._enlarge(scene).unsqueeze(2), take(scene.priors.centers, chosen))
        wanted = (metric > 0) & (margin > self.margin)
        predicted = take(scene.predicted, chosen)
        overlap = self._overlap(scene.boxes.unsqueeze(2), predicted)
        index = match(chosen, overlap, wanted, len(scene.priors))
        slot = chosen.flatten(1)  # (B, G · k), among them all positives
        if self.conflicts != "selected":
            count = torch.zeros_like(index).scatter_add(1, slot, wanted.flatten(1).to(torch.int64))
            index = torch.where(count > 1, favourite, index)
        owner = index.gather(1, slot)
        overlap = self._overlap(scene.boxes_of(owner), predicted.flatten(1, 2))
        metric = self._metric(scene.logits_at(slot, owner), overlap)
        nothing = overlap.new_zeros(index.shape)
        metric, overlap = (nothing.scatter(1, slot, value) for value in (metric, overlap))
        if self.final_topk is not None:
            index = index.where(keep_best(index, metric, self.final_topk), BACKGROUND)
        positive = index >= 0
        score = self._normalise(index, metric * positive, overlap * positive, scene.boxes.shape[1])
        return Assignment(index.masked_fill(scene.covered, IGNORED), score)

    def _normalise(self, index: Tensor, metric: Tensor, overlap: Tensor, objects: int) -> Tensor:
        """Scale t (B, L) so that the best of an object gets the object's largest u."""
        owner = index.clamp(min=0)
        nothing = metric.new_zeros(len(metric), objects)
        best_metric = nothing.scatter_reduce(1, owner, metric, "amax").gather(1, owner)
        best_overlap = nothing.scatter_reduce(1, owner, overlap, "amax").gather(1, owner)
        return metric / (best_metric + self.eps) * best_overlap

    def _metric(self, logits: Tensor, overlap: Tensor) -> Tensor:
        """Alignment t; overwrites the logits."""
        return power(probability(logits, out=logits), self.alpha).mul_(power(overlap, self.beta))

    def _overlap(self, boxes: Tensor, predicted: Tensor) -> Tensor:
        """Overlap u of boxes (…, 4) that broadcast, at least 0."""
        iou = aligned_iou(boxes, predicted, eps=EPS)
        if self.overlap == "iou":
            return iou
        aspect = (_angle(boxes) - _angle(predicted)).square_().mul_(4 / math.pi**2)
        penalty = aspect.square() / (aspect - iou + (1 + 1e-7))
        return aligned_iou(boxes, predicted, "diou", eps=EPS).sub_(penalty).clamp_(min=0)

    def _inside(self, scene: Scene, images: slice, objects: slice) -> Tensor:
        """1 where a prior's centre is inside an object, else 0: (b, g, L) float."""
        centers = of_images(scene.priors.centers, images).unsqueeze(-3)
        margin = inside_margin(self._enlarge(scene)[images, objects].unsqueeze(-2), centers)
        return torch.gt(margin, self.margin, out=margin)

    def _enlarge(self, scene: Scene) -> Tensor:
        """Boxes (B, G, 4) for the inside test."""
        if self.small_level is None:
            return scene.boxes
        levels = scene.priors.levels
        if not levels:
            raise ValueError(f"small_level={self.small_level} is the stride of a level, but the priors have no levels")
        stride = levels[min(self.small_level, len(levels) - 1)].stride
        center = (scene.boxes[..., :2] + scene.boxes[..., 2:]) / 2
        half = (scene.boxes[..., 2:] - scene.boxes[..., :2]).clamp(min=stride) / 2
        return torch.cat([center - half, center + half], dim=-1)


def power(base: Tensor, exponent: float) -> Tensor:
    """Raise a base >= 0 to a power >= 0, to halves of whole numbers by products, which round alike in any place."""
    if exponent == 0:
        return torch.ones_like(base)
    whole = int(exponent)
    rest = exponent - whole
    if rest not in (0.0, 0.5) or not 0 < exponent <= 16:
        return base.log().mul_(exponent).exp_()
    root = base.sqrt() if rest else None
    result = base
    for bit in f"{whole:b}"[1:]:
        result = torch.mul(result, result, out=None if result is base else result)
        result = result.mul_(base) if bit == "1" else result
    if root is None:
        return result
    return root.mul_(result) if whole else root


def _angle(boxes: Tensor) -> Tensor:
    x1, y1, x2, y2 = boxes.unbind(-1)
    return ((x2 - x1) / (y2 - y1 + 1e-7)).atan()
