"""Which prior is responsible for which object."""

from dataclasses import dataclass
from typing import Final, Self

import torch
from torch import Tensor

from boxwright.structures.base import TensorStruct
from boxwright.structures.targets import Targets

BACKGROUND: Final = -1
IGNORED: Final = -2


@dataclass(frozen=True, eq=False, slots=True)
class Assignment(TensorStruct):
    """The answer of an assigner for B images and L priors.

    Attributes:
        gt_index: (B, L) int64, index of the matched object in `Targets` (>= 0), -1 background, -2 ignored.
        score: (B, L) float32 soft target of the matched class: 1, an IoU, an alignment; 0 where not matched.
    """

    gt_index: Tensor
    score: Tensor

    @property
    def positive(self) -> Tensor:
        """(B, L) bool: priors matched with an object."""
        return self.gt_index >= 0

    @property
    def ignored(self) -> Tensor:
        """(B, L) bool: priors that cost nothing."""
        return self.gt_index == IGNORED

    def labels(self, targets: Targets) -> Tensor:
        """(B, L) int64: class of the matched object, -1 background, -2 ignored."""
        if targets.labels.shape[1] == 0:
            return self.gt_index
        matched = targets.labels.gather(1, self.gt_index.clamp(min=0))
        return torch.where(self.positive, matched, self.gt_index)

    def boxes(self, targets: Targets) -> Tensor:
        """(B, L, 4): box of the matched object, xyxy in pixels; meaningless (but finite) where not positive."""
        if targets.boxes.shape[1] == 0:
            return targets.boxes.new_zeros(*self.gt_index.shape, 4)
        index = self.gt_index.clamp(min=0).unsqueeze(-1).expand(-1, -1, 4)
        return targets.boxes.gather(1, index)

    def take(self, index: Tensor) -> Self:
        """Return the answer for the priors at `index` (B, S) of each image."""
        return self.map(lambda tensor: tensor.gather(1, index))

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.gt_index)

    def __getitem__(self, images: slice) -> Self:
        """Return the assignment of a slice of images."""
        return self.map(lambda tensor: tensor[images])
