"""One-to-many and one-to-one assignments of the same metric, for heads that need no suppression of duplicates."""

from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch

from boxwright.assigners.task_aligned import TaskAlignedAssigner
from boxwright.structures import Assignment, Predictions, Priors, Targets

__all__ = ["DualAssigner", "DualAssignment"]


class DualAssignment(NamedTuple):
    """The two assignments of a call."""

    many: Assignment
    one: Assignment


@dataclass(frozen=True, slots=True)
class DualAssigner:
    """Wang et al. 2024 (YOLOv10), arXiv:2405.14458: top-k and top-1 of one task-aligned metric.

    Both branches rank priors by t = s^alpha · u^beta as `TaskAlignedAssigner` does, so that the best prior of the
    one-to-many branch is the one that the one-to-one branch learns. Each branch is judged by its own predictions where
    two are given; with one, the metric is computed once. Where two objects have the same best prior, the one with the
    larger overlap has it and the other has none in the one-to-one branch. Ties, crowd and scores as there.

    Attributes:
        topk: priors that an object chooses in the one-to-many branch.
        alpha: exponent of the class probability.
        beta: exponent of the overlap.
        overlap: as in `TaskAlignedAssigner`.
        ignore_threshold: share of a prior's area inside a crowd region above which it is ignored; None: never.

    Raises:
        ValueError: an option is none of its choices or out of range.
    """

    topk: int = 10
    alpha: float = 0.5
    beta: float = 6.0
    overlap: Literal["iou", "ciou"] = "ciou"
    ignore_threshold: float | None = 0.5

    needs_predictions: ClassVar[bool] = True

    def __post_init__(self) -> None:
        self.branch(self.topk)  # which checks the options

    @torch.no_grad()
    def __call__(
        self,
        priors: Priors,
        targets: Targets,
        predictions: Predictions | None = None,
        one_to_one: Predictions | None = None,
    ) -> DualAssignment:
        """Assign B images at once; `one_to_one` are the predictions of a second head, None where there is one head.

        Raises:
            ValueError: no decoded predictions.
        """
        many = self.branch(self.topk)
        if one_to_one is None:
            return DualAssignment(*many.assign_by_rank(priors, targets, predictions, (self.topk, 1)))
        [first] = many.assign_by_rank(priors, targets, predictions, (self.topk,))
        [second] = self.branch(1).assign_by_rank(priors, targets, one_to_one, (1,))
        return DualAssignment(first, second)

    def branch(self, topk: int) -> TaskAlignedAssigner:
        """Return what assigns one branch alone: one-to-many with this `topk`, one-to-one with 1."""
        return TaskAlignedAssigner(
            topk,
            self.alpha,
            self.beta,
            inside="before",
            overlap=self.overlap,
            margin=1e-9,
            eps=1e-9,
            ignore_threshold=self.ignore_threshold,
        )
