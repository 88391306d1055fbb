"""One-to-one assignment of least total cost, as DETR needs it."""

from dataclasses import dataclass
from typing import ClassVar, Final, Literal

import torch
from torch import Tensor
from torch.nn import functional

from boxwright.assigners.linear_sum import linear_sum_assignment
from boxwright.assigners.options import check_options
from boxwright.assigners.regions import covered_by_crowd
from boxwright.assigners.scene import check_predictions
from boxwright.boxes import box_iou, xyxy_to_cxcywh
from boxwright.structures import BACKGROUND, IGNORED, Assignment, Predictions, Priors, Targets

__all__ = ["HungarianAssigner"]

_MOST: Final = 1e9  # what a match costs or saves at most
_COVERED: Final = 1e10  # more than that, and sums in double precision still tell costs apart by a millionth


@dataclass(frozen=True, slots=True)
class HungarianAssigner:
    """Match every object with one prediction so that the sum of costs is least; all other predictions are background.

    Cost of a pair: `box_cost` · L1 of (cx, cy, w, h) relative to the image + `giou_cost` · (-GIoU) + `class_cost` ·
    the class term. Where an image has more objects than predictions, each prediction gets one. Ties are broken the same
    way every time, but which optimum wins is the solver's. Priors covered by a crowd region are ignored (queries, whose
    priors have no area, never are), and an object takes one only to leave the others theirs; it then has none.

    The (B, L, G) cost matrix is held at once and the solver synchronises with the host: this is for a few hundred
    queries, not for dense grids. To `torch.compile` the solver is one operator. Carion et al. 2020, arXiv 2005.12872.

    Q queries lie nowhere: their priors are `Priors(torch.zeros(Q, 4), torch.zeros(Q, 2), torch.zeros(Q))`, and boxes
    of targets and predictions are then both xyxy in fractions of the image.

    Attributes:
        class_cost: weight of the class term.
        box_cost: weight of the L1 distance; boxes are divided by the extent of the priors' grid where they have one.
        giou_cost: weight of the generalised IoU.
        class_form: "softmax" takes -p of the object's class, the last logit being no object (DETR); "focal" the
            difference of the focal losses with and without the object, over sigmoids (Zhu et al. 2021, 2010.04159).
        solver: "scipy" solves image by image on the CPU, by SciPy of `boxwright[train]`; "batched" solves all images
            together on their device, by torch alone.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    class_cost: float = 1.0
    box_cost: float = 5.0
    giou_cost: float = 2.0
    class_form: Literal["softmax", "focal"] = "softmax"
    solver: Literal["scipy", "batched"] = "scipy"
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_options(self)

    @torch.no_grad()
    def __call__(self, priors: Priors, targets: Targets, predictions: Predictions | None = None) -> Assignment:
        """Assign B images by the predictions' `logits` and decoded `boxes`.

        Raises:
            ValueError: there are no predictions with decoded boxes, or not one per image and prior.
            BoxwrightError: `solver="scipy"` where SciPy is not installed.
        """
        if predictions is None or predictions.boxes is None:
            raise ValueError("HungarianAssigner matches predictions: pass `predictions` with decoded `boxes`")
        check_predictions(priors, targets, predictions)
        covered = covered_by_crowd(priors, targets, self.ignore_threshold)
        cost = self.cost(priors, targets, predictions).masked_fill(covered.unsqueeze(2), _COVERED)
        column = linear_sum_assignment(cost.mT, targets.objects, self.solver)  # (B, G): a prediction or -1
        number = torch.arange(column.shape[1], device=cost.device).expand_as(column)
        index = cost.new_full((cost.shape[0], cost.shape[1] + 1), BACKGROUND, dtype=torch.int64)
        index = index.scatter(1, column % index.shape[1], torch.where(column >= 0, number, BACKGROUND))[:, :-1]
        index = index.masked_fill(covered, IGNORED)
        return Assignment(index, (index >= 0).to(torch.float32))

    def cost(self, priors: Priors, targets: Targets, predictions: Predictions) -> Tensor:
        """Return the cost (B, L, G) of every pair; entries of padding and crowd are meaningless but finite."""
        assert predictions.boxes is not None
        boxes, objects = predictions.boxes.float(), targets.boxes.float()
        scale = boxes.new_tensor(_extent(priors))
        distance = torch.cdist(xyxy_to_cxcywh(boxes / scale), xyxy_to_cxcywh(objects / scale), p=1)
        cost = self.box_cost * distance - self.giou_cost * box_iou(boxes, objects, "giou")
        cost = cost + self.class_cost * self._class_cost(predictions.logits.float(), targets.labels)
        return cost.nan_to_num(nan=_MOST, posinf=_MOST, neginf=-_MOST).clamp(-_MOST, _MOST)

    def _class_cost(self, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the class term (B, L, G)."""
        if self.class_form == "softmax":
            cost = -logits.softmax(dim=-1)
        else:
            p = logits.sigmoid()
            positive = -0.25 * (1 - p).square() * functional.logsigmoid(logits)
            cost = positive + 0.75 * p.square() * functional.logsigmoid(-logits)
        return cost.gather(2, labels.unsqueeze(1).expand(-1, logits.shape[1], -1))


def _extent(priors: Priors) -> tuple[float, float, float, float]:
    """Return (W, H, W, H) of the image in pixels, as far as the grids tell; ones for priors that are no grid."""
    if not priors.levels:
        return 1.0, 1.0, 1.0, 1.0
    width = max(level.width * level.stride for level in priors.levels)
    height = max(level.height * level.stride for level in priors.levels)
    return width, height, width, height
