"""What an assigner does with every object of a data set, in numbers."""

from dataclasses import dataclass
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from boxwright.criteria.contract import check_assignment, check_matches
from boxwright.criteria.dense import AssignerFunction
from boxwright.errors import PartError
from boxwright.recipes.own import raised
from boxwright.structures import Assignment, Predictions, Priors, Targets
from boxwright.study.inspection.inputs import InputBatch

__all__ = ["Tally", "alone", "level_of"]

_PAIRS_AT_ONCE: Final = 2**19  # (object, prior) pairs that are looked at together
_LOGITS_AT_ONCE: Final = 2**23  # 32 MB


@dataclass(frozen=True, eq=False, slots=True)
class Tally:
    """Counts of one assigner over N objects and V levels.

    Attributes:
        positives: (N, V) int64, priors that an object is given, by their level.
        wanted: (N,) int64, priors that it would be given if it were the only object of its image.
        lost: (N,) int64, those of them that another object was given.
        priors: (V, 3) int64, positive, ignored and background priors of all images.
    """

    positives: NDArray[np.int64]
    wanted: NDArray[np.int64]
    lost: NDArray[np.int64]
    priors: NDArray[np.int64]

    @classmethod
    def empty(cls, objects: int, levels: int) -> Self:
        """Return counts of nothing."""
        shapes: tuple[tuple[int, ...], ...] = ((objects, levels), (objects,), (objects,), (levels, 3))
        return cls(*(np.zeros(shape, np.int64) for shape in shapes))

    def add(self, batch: InputBatch, assigner: AssignerFunction, predictions: Predictions | None = None) -> None:
        """Assign a batch and count; `predictions` are what the assigner looks at, where it looks at any.

        Raises:
            PartError: the assigner is the user's own and fails, or answers something else than it must.
        """
        assignment = _asked(assigner, batch, predictions)
        level = level_of(batch.priors)
        self.priors[:] += _priors_by_level(assignment, level, len(self.priors))
        owned = _positives_by_level(assignment, level, batch.rows.shape[1], len(self.priors))
        present = batch.rows >= 0
        self.positives[batch.rows[present].numpy()] = owned[present].numpy()
        lonely = present & (present.sum(1, keepdim=True) == 1)  # nobody to lose against
        self.wanted[batch.rows[lonely].numpy()] = owned[lonely].sum(1).numpy()
        pairs = (present & ~lonely).nonzero()
        at_once = _PAIRS_AT_ONCE
        if predictions is not None:  # whose logits are copied for each object
            at_once = min(at_once, _LOGITS_AT_ONCE // predictions.logits.shape[-1])
        for some in pairs.split(1 + at_once // len(level)) if len(pairs) else ():
            image, number = some.unbind(1)
            wanted = alone(assigner, batch, image, number, predictions)
            owner = assignment.gt_index[image]
            lost = wanted & (owner >= 0) & (owner != number.unsqueeze(1))
            rows = batch.rows[image, number].numpy()
            self.wanted[rows], self.lost[rows] = wanted.sum(1).numpy(), lost.sum(1).numpy()


def alone(
    assigner: AssignerFunction,
    batch: InputBatch,
    image: Tensor,
    number: Tensor,
    predictions: Predictions | None = None,
) -> Tensor:
    """Tell which priors objects would be given if each were alone in its image, with the crowd regions.

    Args:
        assigner: any.
        batch: the images.
        image: (n,) int64, the image of each object.
        number: (n,) int64, which object of it.
        predictions: for the images, where the assigner looks at any.

    Returns:
        (n, L) bool.
    """
    targets = batch.targets
    most = int(targets.crowd.sum(1).amax())
    regions = targets.crowd.int().argsort(dim=1, descending=True, stable=True)[:, :most]  # crowd first
    index = torch.cat([number.unsqueeze(1), regions[image]], dim=1)  # (n, 1 + most)
    boxes, labels, crowd = (
        values[image.unsqueeze(1), index] for values in (targets.boxes, targets.labels, targets.crowd)
    )
    valid = crowd.clone()
    valid[:, 0] = True
    solo = Targets(boxes, labels, valid, crowd, has_crowd=targets.has_crowd)
    seen = None if predictions is None else predictions.map(lambda tensor: tensor[image])
    return assigner(batch.priors, solo, seen).positive


def _asked(assigner: AssignerFunction, batch: InputBatch, predictions: Predictions | None) -> Assignment:
    try:
        answer = assigner(batch.priors, batch.targets, predictions)
    except Exception as error:  # whatever the user's code raises
        if not (said := raised(error)):
            raise
        raise PartError(said) from error
    check_assignment(assigner, answer, (len(batch.targets), len(batch.priors)))
    check_matches(assigner, answer, batch.targets)
    return answer


def level_of(priors: Priors) -> Tensor:
    """Level of each prior, (L,) int64."""
    return torch.repeat_interleave(torch.tensor([level.size for level in priors.levels]))


def _positives_by_level(assignment: Assignment, level: Tensor, objects: int, levels: int) -> Tensor:
    """Positives of each object: (B, G, V)."""
    image, prior = assignment.positive.nonzero(as_tuple=True)
    key = (image * objects + assignment.gt_index[image, prior]) * levels + level[prior]
    return torch.bincount(key, minlength=len(assignment) * objects * levels).view(len(assignment), objects, levels)


def _priors_by_level(assignment: Assignment, level: Tensor, levels: int) -> NDArray[np.int64]:
    """Positive, ignored and background priors: (V, 3)."""
    kind = torch.where(assignment.positive, 0, torch.where(assignment.ignored, 1, 2))
    count: NDArray[np.int64] = (
        torch.bincount((level * 3 + kind).flatten(), minlength=levels * 3).view(levels, 3).numpy()
    )
    return count
