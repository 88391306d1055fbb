"""The guide of NanoDet-Plus: a heavier neck and head that choose the assignment of a light head in training."""

import copy
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from boxwright.structures import Predictions

__all__ = ["Guide"]


class Guide(nn.Module):
    """A second neck and a heavier head, in training only; what they predict decides which priors learn what.

    The head reads every level of the detector's neck beside that of the guide's own. From `detach_epoch` on the guide
    learns without moving the detector. RangiLyu, "NanoDet-Plus", 2021 (no paper; github.com/RangiLyu/nanodet).

    Args:
        neck: the detector's neck; the guide starts from a copy of it.
        head: reads levels with the channels of both necks, (B, C + C, H_n, W_n).
        detach_epoch: the first epoch, from 0, whose gradients end at the guide.
    """

    def __init__(self, neck: nn.Module, head: nn.Module, detach_epoch: int = 10) -> None:
        super().__init__()
        self.neck = copy.deepcopy(neck)
        self.head = head
        self.detach_epoch = detach_epoch
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch, counted from 0, is trained."""
        self.detached = epoch >= self.detach_epoch  # a flag, so that a compiled graph changes once

    def forward(self, features: Sequence[Tensor], levels: Sequence[Tensor]) -> Predictions:
        """Predict from the backbone's features and the neck's levels, finest first."""
        if self.detached:
            features = [feature.detach() for feature in features]
            levels = [level.detach() for level in levels]
        both = [torch.cat(pair, dim=1) for pair in zip(levels, self.neck(features), strict=True)]
        predictions: Predictions = self.head(both)
        return predictions
